"""The child process of the speech engine: uploads come in by HTTP, speech is found, heard in batches, written down.

    handlers → form → requests → transcription → audio → chunks → workers → model → answers

Only here is anything of a clip decoded: a file that is made to break a decoder breaks this process, not the server.
"""
