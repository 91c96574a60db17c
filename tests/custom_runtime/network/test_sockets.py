import socket

import pytest

from custom_runtime.network.sockets import bound_socket, refuse_handshakes

HOST = "127.0.0.1"


def test_who_has_connected_is_served_and_nobody_else_can_connect() -> None:
    with bound_socket(HOST, 0, share=False) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()) as early:
            early.sendall(b"before")
            refuse_handshakes(listener)
            with pytest.raises(TimeoutError):
                socket.create_connection(listener.getsockname(), timeout=0.2)
            served, _ = listener.accept()
            with served:
                early.sendall(b" and after")
                early.shutdown(socket.SHUT_WR)
                assert served.makefile("rb").read() == b"before and after"
                served.sendall(b"answer")
                assert early.recv(16) == b"answer"
