-- Each is the beginning of a longer one (0015), and every change of a server's host or state had to be written to both.
DROP INDEX instances_host ON instances;
DROP INDEX instances_state ON instances;
