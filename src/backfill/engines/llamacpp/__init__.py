"""llama.cpp: the replica that starts its server, and in `host` the program that runs it in a child process."""
