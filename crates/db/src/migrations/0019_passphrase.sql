-- The passphrase of a server's TPM, sealed, for the host that starts its guest: it goes with the task.
ALTER TABLE tasks ADD COLUMN passphrase TEXT;
