"""The job all rivals do, as Muster does it: one row per task, one request to its device, and the row again when the answer is there.

A row is committed before its request leaves and again after its answer, so that a rival that dies knows where it stood. Like most scripts, the
rivals do not send again what was lost, do not look after silent devices and ask nobody's consent: what they leave out is in their favour.
"""

import argparse
import json
import sys
import time
import uuid

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

ANSWER_TIMEOUT_SECONDS = 30
# More than any rival has out at a time: the client library's own 20 would be its speed limit.
IN_FLIGHT = 1000

TABLE = """
DROP TABLE IF EXISTS rival_task;
CREATE TABLE rival_task (
    id uuid PRIMARY KEY, device text NOT NULL, state text NOT NULL, status text,
    created_at timestamptz NOT NULL DEFAULT now(), finished_at timestamptz
)
"""
INSERT = "INSERT INTO rival_task (id, device, state) VALUES (%s, %s, 'sent')"
UPDATE = "UPDATE rival_task SET state = 'done', status = %s, finished_at = now() WHERE id = %s"
COUNT = "SELECT count(*) FROM rival_task WHERE state = 'done' AND status = '200'"


def arguments():
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--mqtt-port", type=int, required=True)
    parser.add_argument("--database", required=True, help="URL of a database of its own")
    parser.add_argument("--device", action="append", default=[], required=True, help="a device to ask; once for each")
    parser.add_argument("--tasks", type=int, required=True)
    return parser.parse_args()


def request(device, caller):
    """Topic and properties of a ping, and the id of its task."""
    task = uuid.uuid4()
    properties = Properties(PacketTypes.PUBLISH)
    properties.PayloadFormatIndicator = 1
    properties.MessageExpiryInterval = 60
    properties.ContentType = "application/json"
    properties.ResponseTopic = f"muster/v1/d/{device}/rsp/{caller}"
    properties.CorrelationData = task.bytes
    properties.UserProperty = [("__protVer", "1.0"), ("__srcId", caller)]
    return task, f"muster/v1/d/{device}/cmd/ping", properties


def status_of(properties):
    return dict(getattr(properties, "UserProperty", [])).get("__stat")


def report(tasks, began, done):
    """The last line: what was done, and how long it took. Rows that are missing are an error, not a result."""
    seconds = time.monotonic() - began
    if done != tasks:
        sys.exit(f"{done} of {tasks} rows are completed")
    print(json.dumps({"tasks": tasks, "seconds": seconds}), flush=True)
