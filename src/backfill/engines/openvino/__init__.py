"""OpenVINO: the replica that starts it, and in `host/` the program that runs it in a child process."""
