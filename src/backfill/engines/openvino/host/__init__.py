"""The child process in which OpenVINO runs. It shares nothing with the server but `openvino.messages`."""
