"""An OpenAI-compatible server on the loopback, whose answers the test decides."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def judge_server(answer, key=None):
    """Serve `answer(request) -> (status, choice or text)`; yields the base URL and the list of requests.

    With a key, who doesn't send it is refused as by vLLM's server.
    """
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((self.path, request))
            known = key is None or self.headers["Authorization"] == f"Bearer {key}"
            status, choice = answer(request) if known else (401, "Unauthorized")
            body = choice.encode() if isinstance(choice, str) else json.dumps({"choices": [choice]}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def says(text):
    return {"message": {"role": "assistant", "content": text}}


def first_token(**logprobs):
    top = [{"token": token.replace("_", " "), "logprob": value} for token, value in logprobs.items()]
    return {"message": {"content": "YES"}, "logprobs": {"content": [{"top_logprobs": top}]}}
