CREATE INDEX vol_attachments_server ON vol_attachments (server_id);
