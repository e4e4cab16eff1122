-- What was deleted lately is found without all that ever was.
CREATE INDEX instances_terminated ON instances (terminated_at, project_id);
-- Groups keep no servers that are deleted.
DELETE FROM server_group_members WHERE instance_uuid IN (SELECT uuid FROM instances WHERE deleted <> 0);
