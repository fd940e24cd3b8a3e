"""A server that answers as a test of the load generators wants it to."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


@contextmanager
def answering(answer: Callable[[int], bytes]) -> Iterator[str]:
    """A server of one thread for each connection; `answer` is given the number of the request."""
    lock, numbers = threading.Lock(), iter(range(10**9))

    def serve(client: socket.socket) -> None:
        with client, suppress(ConnectionError):
            while client.recv(65_536):
                with lock:
                    number = next(numbers)
                client.sendall(answer(number))

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
