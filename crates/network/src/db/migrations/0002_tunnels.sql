-- Where the tunnels of a host end; NULL where its networks do not leave it.
ALTER TABLE net_hosts ADD COLUMN tunnel_ip VARCHAR(64);
