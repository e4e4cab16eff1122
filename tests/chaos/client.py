"""Requests as a careful client makes them: repeated under the same key until somebody answers."""

import http.client
import json
import time
import uuid

MICROVERSION = "2.90"
PATIENCE = 90


class NoAnswer(Exception):
    """Nobody answered in time."""


class Client:
    """One project's user, or the administrator."""

    def __init__(self, machines, random, counts):
        self.machines, self.random, self.counts = machines, random, counts
        self.token = self.project = None

    def _once(self, port, method, path, body, headers):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=40)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        try:
            parsed = json.loads(text) if text else {}
        except ValueError:
            parsed = {}
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, parsed

    def ask(self, service, method, path, body=None, patience=PATIENCE, version=None, key=None):
        """The first answer that is one: (status, headers, body). Nobody there, 502, 503 and 504 are no answers."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.token:
            headers["X-Auth-Token"] = self.token
        if service == "compute":
            headers |= {
                "OpenStack-API-Version": f"compute {version or MICROVERSION}",
                "Idempotency-Key": key or uuid.uuid4().hex,
            }
        if service == "volume" and version:
            headers["OpenStack-API-Version"] = f"volume {version}"
        until = time.monotonic() + patience
        pause = 0.1
        while True:
            ports = self.machines.api_ports if service == "compute" else [self.machines.roles.ports[service]]
            try:
                status, answered, parsed = self._once(self.random.choice(ports), method, path, body, headers)
                self.counts[f"{service} {status}"] += 1
                if status not in (502, 503, 504):
                    return status, answered, parsed
            except (OSError, http.client.HTTPException):
                self.counts[f"{service} unreachable"] += 1
            if time.monotonic() > until:
                raise NoAnswer(f"{method} {service} {path}")
            time.sleep(pause)
            pause = min(pause * 2, 1)

    def login(self, user, password, project):
        identity = {
            "methods": ["password"],
            "password": {"user": {"name": user, "domain": {"id": "default"}, "password": password}},
        }
        scope = {"project": {"name": project, "domain": {"id": "default"}}}
        self.token = None
        status, headers, body = self.ask(
            "identity", "POST", "/v3/auth/tokens", {"auth": {"identity": identity, "scope": scope}}
        )
        assert status == 201, (status, body)
        self.token, self.project = headers["x-subject-token"], body["token"]["project"]["id"]
        return self
