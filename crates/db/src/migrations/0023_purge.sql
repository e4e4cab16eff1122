-- Whether a host still has something of a deleted server, before the last of it is removed.
CREATE INDEX host_debts_instance ON host_debts (instance_uuid);
CREATE INDEX host_leftovers_instance ON host_leftovers (instance_uuid);
