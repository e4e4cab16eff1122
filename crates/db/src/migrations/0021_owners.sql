-- A claim reads the tasks of nobody and of the dead: those that others run are not in its way.
CREATE INDEX tasks_owner ON tasks (owner, incarnation);
