"""A real S3 server on loopback: moto's, made strict about the order of writes."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import boto3
from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from moto.s3.models import s3_backends
from werkzeug.serving import make_server

BUSY = (
    b"<?xml version='1.0'?><Error><Code>ServiceUnavailable</Code><Message>Please try again.</Message></Error>"
)


@dataclass
class S3Server:
    """Runs until `stop`. `lose_answers = n` makes it carry out n PUTs and then say that it did not."""

    lose_answers: int = 0
    _buckets: int = 0
    _app: Any = field(default_factory=lambda: DomainDispatcherApplication(create_backend_app))
    # moto looks at an object and then writes it; S3 does both at once, and so must what we test against
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=MotoRequestHandler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._one_at_a_time:
            answer: Iterable[bytes] = self._app(environ, start_response)
            if environ["REQUEST_METHOD"] != "PUT" or self.lose_answers == 0:
                return answer
            self.lose_answers -= 1
        start_response("503 Service Unavailable", [("Content-Length", str(len(BUSY)))])
        return [BUSY]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to talk to this server, and to no other."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        }

    def new_bucket(self) -> str:
        """The `s3://` URL of an empty bucket. The environment must be set."""
        self._buckets += 1
        name = f"bucket-{self._buckets}"
        boto3.client("s3", endpoint_url=self.endpoint).create_bucket(Bucket=name)
        return f"s3://{name}"

    def fill(self, bucket: str, keys: Iterable[str]) -> None:
        """Put empty objects there without asking over HTTP for each."""
        objects = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        for key in keys:
            objects.put_object(bucket, key, b"")

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
