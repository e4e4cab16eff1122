-- Policy documents that services keep here (Identity API, "Policies"); the identity service itself reads none of them.
CREATE TABLE identity_policies (
  id VARCHAR(64) NOT NULL PRIMARY KEY, kind VARCHAR(255) NOT NULL, content TEXT NOT NULL, extra TEXT NOT NULL);
