"""An application without a framework: python3 app.py WHERE, a path (Unix socket), a port or fd:N.

What it does wrong is in the file `fault` of its release.
"""
import os, signal, socket, socketserver, sys, threading, time
from http.server import BaseHTTPRequestHandler, HTTPServer

RELEASE = os.path.basename(os.getcwd())
FAULT = open("fault").read().strip() if os.path.exists("fault") else ""
print(f"release {RELEASE} starts", flush=True)

if FAULT == "import":
    import no_such_module
if FAULT == "exit":
    sys.exit(3)
if FAULT == "hang":
    time.sleep(3600)
if FAULT == "once":
    if os.path.exists("started"):
        time.sleep(3600)
    open("started", "w").close()
if FAULT == "slow":
    time.sleep(1)
if FAULT == "late":
    time.sleep(10)
if FAULT == "very-late":
    time.sleep(20)
if FAULT == "leaks":
    # Longer than between two looks at the other one's memory.
    time.sleep(3)
if FAULT == "away":
    first = os.getpid()
    if os.fork():
        os._exit(0)
    os.setsid()
    # As daemons do: the one that was started has gone before anybody listens.
    while os.getppid() == first:
        time.sleep(0.001)
if FAULT == "dies":
    # Twice.
    with open("lives", "a") as lives:
        lives.write("x")
    def die():
        time.sleep(1.2)
        os._exit(7)
    if os.path.getsize("lives") <= 2:
        threading.Thread(target=die, daemon=True).start()
if FAULT == "renews" or FAULT == "renews-once":
    # Longer than what counts as service.
    def renew():
        time.sleep(12)
        server.shutdown()
    if FAULT == "renews-once" and os.path.exists("renewed"):
        time.sleep(3600)
    open("renewed", "w").close()
    threading.Thread(target=renew, daemon=True).start()
if FAULT == "flood":
    def flood():
        while True:
            print("x" * 100, flush=True)
    threading.Thread(target=flood, daemon=True).start()


HELD = []
# Of one that leaves as gunicorn does, by what it has: connections, and whether it is told to.
OPEN = set()
LEAVING = threading.Event()
STUCK = threading.Event()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        OPEN.add(self.connection)
        if LEAVING.is_set():
            close_idle()

    def finish(self):
        OPEN.discard(self.connection)
        super().finish()

    def log_message(self, *_):
        pass

    def address_string(self):
        return "-"

    def answer(self, body, status=200):
        body = body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self):
        return f"app/{RELEASE}"

    def do_GET(self):
        if self.path == "/healthz" and STUCK.is_set():
            time.sleep(3600)
        elif self.path == "/healthz":
            self.answer("ok", 500 if FAULT == "sick" else 200)
        elif self.path in ("/stick", "/unstick"):
            STUCK.set() if self.path == "/stick" else STUCK.clear()
            self.answer("done")
        elif self.path == "/pid":
            self.answer(str(os.getpid()))
        elif self.path == "/env":
            self.answer("".join(f"{k}={v}\n" for k, v in sorted(os.environ.items())))
        elif self.path == "/eat":
            print("it eats", flush=True)
            HELD.append(bytearray(os.urandom(1 << 20) * 96))
            self.answer("eaten")
        elif self.path in ("/leave", "/leave-and-eat"):
            # As daemons do: a session of its own, and nobody waits for it.
            ours, theirs = os.pipe()
            if os.fork() == 0:
                os.setsid()
                if os.fork():
                    os._exit(0)
                if self.path != "/leave":
                    HELD.append(bytearray(os.urandom(1 << 20) * 96))
                os.write(theirs, str(os.getpid()).encode())
                time.sleep(3600)
            self.answer(os.read(ours, 20).decode())
        elif self.path == "/phase":
            self.answer(os.environ["HANDOVER_PHASE"])
        elif self.path == "/cwd":
            self.answer(os.getcwd())
        elif self.path == "/body":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            self.answer(body.decode())
        elif self.path == "/headers":
            self.answer(str(self.headers))
        elif self.path == "/crash":
            os._exit(7)
        elif self.path.startswith("/bad/"):
            self.close_connection = True
            BAD[self.path[5:]](self)
        elif self.path == "/slow" and FAULT == "slower":
            time.sleep(3600)
        elif self.path == "/slow" and FAULT == "hangs-up":
            os._exit(9)
        elif self.path == "/held":
            print("it is held", flush=True)
            while not os.path.exists("let-go"):
                time.sleep(0.01)
            self.answer(RELEASE)
        elif self.path.startswith("/slow"):
            print("slow begins", flush=True)
            time.sleep(1)
            self.answer(RELEASE)
        elif self.path == "/echo":
            self.send_response(101)
            self.send_header("Connection", "upgrade")
            self.send_header("Upgrade", "websocket")
            self.end_headers()
            self.close_connection = True
            while word := self.connection.recv(4096):
                self.connection.sendall(f"{RELEASE}:".encode() + word)
        else:
            if FAULT == "leaks":
                HELD.append(os.urandom(1 << 15))
            self.answer(RELEASE)

    def do_POST(self):
        if self.path == "/bad/deaf":
            time.sleep(3600)
        if self.path == "/bad/early":
            # As Flask does over MAX_CONTENT_LENGTH: it answers, and closes with the body unread.
            self.close_connection = True
            return self.answer("too large" * 1000, 413)
        length = int(self.headers["Content-Length"])
        self.answer(str(len(self.rfile.read(length))))


def says(*parts):
    """These bytes, and then it hangs up."""
    def say(handler):
        for part in parts:
            handler.wfile.write(part)
    return say


def endless(part, head=b""):
    def say(handler):
        try:
            handler.wfile.write(head)
            while True:
                handler.wfile.write(part)
        except OSError:
            print("its client is gone", flush=True)
    return say


def stands_still(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    time.sleep(3600)


BAD = {
    "garbage": says(b"\x00\xff hello\r\n\r\n"),
    "nothing": says(),
    "endless-head": endless(b"a: " + b"b" * 1000 + b"\r\n", b"HTTP/1.1 200 OK\r\n"),
    "two-lengths": says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 4\r\n\r\nokok"),
    "switch": says(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
    "too-short": says(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"),
    "too-long": says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n"
                     b"content-length: 4\r\n\r\nevil"),
    "cut-chunk": says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
    "stands-still": stands_still,
    "late": lambda _: time.sleep(3600),
    "endless": endless(b"x" * 65536, b"HTTP/1.1 200 OK\r\n\r\n"),
}


def close_idle():
    for connection in list(OPEN):
        try:
            # What has come is read, and answered.
            connection.shutdown(socket.SHUT_RD)
        except OSError:
            pass


class Server(socketserver.ThreadingMixIn, HTTPServer):
    daemon_threads = FAULT != "leaks"
    request_queue_size = 1024

    def server_bind(self):
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "app", 0

    def handle_error(self, *_):
        pass


where = sys.argv[1] if len(sys.argv) > 1 else os.environ["PORT"]
if FAULT == "elsewhere":
    where = "0"
if where.startswith("fd:"):
    assert os.environ["LISTEN_PID"] == str(os.getpid()), "not for us"
    server = Server(None, Handler, bind_and_activate=False)
    server.socket = socket.socket(fileno=int(where[3:]))
elif where.isdigit():
    server = Server(("127.0.0.1", int(where)), Handler)
else:
    class UnixServer(Server):
        address_family = socket.AF_UNIX

        def get_request(self):
            request, _ = super().get_request()
            return request, ("-", 0)

    server = UnixServer(where, Handler)
if FAULT == "leaks":
    def leave(*_):
        LEAVING.set()
        threading.Thread(target=server.shutdown).start()
    signal.signal(signal.SIGTERM, leave)
server.serve_forever()
close_idle()
server.server_close()
if FAULT.startswith("renews"):
    # It accepts no more, and lets its requests finish.
    time.sleep(0.5)
