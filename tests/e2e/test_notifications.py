"""Notifications as OpenStack's own library reads them, through a real broker, also one that was away."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile

import pytest

from cloud import wait_until
from roles import Broker

# oslo.messaging in a process of its own: it patches what it finds, and its threads do not end.
READER = """
import json, sys, threading
import oslo_messaging
from oslo_config import cfg

lock = threading.Lock()

class Endpoint:
    def info(self, context, publisher, event_type, payload, metadata):
        # Its threads tell at once: one write for each line, so that lines stay whole.
        line = json.dumps([event_type, publisher, payload, context, metadata]) + "\\n"
        with lock:
            sys.stdout.write(line)
            sys.stdout.flush()
    error = info

transport = oslo_messaging.get_notification_transport(cfg.CONF, url=sys.argv[1])
targets = [oslo_messaging.Target(exchange="nova", topic=topic) for topic in ("notifications", "versioned_notifications")]
listener = oslo_messaging.get_notification_listener(transport, targets, [Endpoint()], executor="threading")
listener.start()
listener.wait()
"""


@pytest.mark.skipif(not importlib.util.find_spec("oslo_messaging"), reason="no oslo.messaging")
def test_stock_consumers_read_them(new_cloud, name):
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(folder)
        if not broker.found:
            pytest.skip("RabbitMQ is not installed")
        cloud = new_cloud()
        with open(os.path.join(cloud.home, "kilonova.conf"), "w") as file:
            file.write(
                "[notifications]\nnotification_format = both\nnotify_on_state_change = vm_state\n"
                f"[oslo_messaging_notifications]\ndriver = messagingv2\ntransport_url = {broker.url}\n"
            )
        # The broker is away while it all happens.
        cloud.start()
        sdk = cloud.client("kilonova-demo").sdk()
        flavor, image = sdk.compute.find_flavor("m1.nano"), next(sdk.image.images())
        made = sdk.compute.create_server(name=name, image_id=image.id, flavor_id=flavor.id, networks="none")
        sdk.compute.wait_for_server(made)
        sdk.compute.delete_server(made)
        sdk.compute.wait_for_delete(made)
        reader = None
        try:
            broker.start()
            broker.wait()
            reader = subprocess.Popen(
                [sys.executable, "-c", READER, broker.url],
                stdout=subprocess.PIPE,
                text=True,
            )
            told = {}

            def heard():
                event, publisher, payload, _, _ = json.loads(reader.stdout.readline())
                told[event] = (publisher, payload)
                wanted = {"instance.update"}
                wanted |= {f"{old}instance.{what}.end" for old in ("", "compute.") for what in ("create", "delete")}
                return all(event in told for event in wanted)

            wait_until(heard, 120, "all was told", pause=0)
        finally:
            if reader:
                reader.kill()
                reader.communicate()
            if broker.process:
                broker.kill()
        publisher, created = told["instance.create.end"]
        assert publisher.startswith("nova-compute:")
        assert created["nova_object.name"] == "InstanceCreatePayload"
        data = created["nova_object.data"]
        assert (data["uuid"], data["display_name"], data["state"]) == (made.id, name, "active")
        assert data["flavor"]["nova_object.data"]["name"] == "m1.nano"
        _, old = told["compute.instance.create.end"]
        assert (old["instance_id"], old["state"], old["message"]) == (made.id, "active", "Success")
