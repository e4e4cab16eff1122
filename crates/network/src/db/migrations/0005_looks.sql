-- What was asked of the agents about the state of their hosts, and what they answered: a JSON list, NULL before the first answer.
CREATE TABLE net_looks (host VARCHAR(255) NOT NULL PRIMARY KEY, asked BIGINT NOT NULL, mend BIGINT NOT NULL, asked_at BIGINT NOT NULL, answered BIGINT NOT NULL, differences TEXT, answered_at BIGINT);
INSERT INTO net_counters (name, amount) VALUES ('look', 0);
