"""Publishes alerts to RabbitMQ with pika, persistent and with publisher confirms, as any producer of somebody else's would.

    publish_pika.py --url URL --queue QUEUE < LINES
    publish_pika.py --url URL --queue QUEUE --generate 50000 --repeats 30 --devices DEVICES.txt --seed 1

A line of standard input is one message, in JSON: {"body": "…"} or {"body_base64": "…"}, and if wanted "content_type", "headers" (texts, numbers;
{"timestamp": seconds} is one), "message_id", "type". With --generate, alerts are made: structured CloudEvents around the common alert schema,
one device of the file and one of the indicators each; of all that are sent, --repeats in a hundred are repetitions of others, and all are
shuffled. --log appends "device indicator nanoseconds" of each when it goes out, if it is the first of its kind.

The last line printed is JSON: messages sent, distinct events, distinct pairs of device and indicator, seconds.
"""

import argparse
import base64
import datetime
import json
import random
import sys
import time
import uuid

import pika

UNCONFIRMED = 1000  # confirms that may be outstanding
INDICATORS = "AcsUnhealthyCondition,IOTEdgeAgentNotRunningCondition,UpdateInstallFailedEvent"


def event(device, indicator, fired, number):
    """A structured CloudEvent as text; the time stands for itself, so that the same event is the same text."""
    data = {
        "schemaId": "azureMonitorCommonAlertSchema",
        "data": {
            "essentials": {
                "alertId": f"/subscriptions/1c7e2a54/providers/Microsoft.AlertsManagement/alerts/{number}",
                "alertRule": "edge-device-alerts",
                "severity": "Sev2",
                "signalType": "Log",
                "monitorCondition": "Fired",
                "monitoringService": "Platform",
                "alertTargetIDs": [
                    f"/subscriptions/1c7e2a54/resourcegroups/rg/providers/microsoft.databoxedge/databoxedgedevices/{device}"
                ],
                "configurationItems": [device],
                "originAlertId": f"origin-{number}",
                "firedDateTime": fired,
                "essentialsVersion": "1.0",
                "alertContextVersion": "1.0",
            },
            "alertContext": {"properties": {"alertType": indicator, "severity": "Warning", "occurrences": "1"}},
        },
    }
    envelope = {
        "specversion": "1.0",
        "id": f"event-{number}",
        "source": f"urn:device:{device}",
        "type": "com.microsoft.edge.alert.v1",
        "subject": indicator,
        "time": fired,
        "datacontenttype": "application/json",
        "data": data,
    }
    return json.dumps(envelope)


def generated(arguments):
    """(properties, body, device, indicator) of each message, and how many are distinct."""
    dice = random.Random(arguments.seed)
    with open(arguments.devices, encoding="utf-8") as file:
        devices = file.read().split()
    indicators = arguments.indicators.split(",")
    repeated = arguments.generate * arguments.repeats // 100
    distinct = arguments.generate - repeated
    fired = (datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=30)).isoformat().replace("+00:00", "Z")
    # Each pair before any comes twice: the number of decisions is known beforehand.
    pairs = [(device, indicator) for indicator in indicators for device in devices]
    run = uuid.UUID(int=dice.getrandbits(128)).hex[:8]
    events = []
    for number in range(distinct):
        device, indicator = pairs[number % len(pairs)]
        events.append((event(device, indicator, fired, f"{run}-{number}"), device, indicator))
    events += [events[dice.randrange(distinct)] for _ in range(repeated)]
    dice.shuffle(events)
    properties = pika.BasicProperties(content_type="application/cloudevents+json; charset=utf-8", delivery_mode=2)
    messages = [(properties, body, device, indicator) for body, device, indicator in events]
    return messages, distinct, min(distinct, len(pairs))


def header(value):
    if isinstance(value, dict):
        return datetime.datetime.fromtimestamp(value["timestamp"], datetime.timezone.utc)
    return value


def lines():
    messages = []
    for line in sys.stdin:
        if not line.strip():
            continue
        message = json.loads(line)
        body = base64.b64decode(message["body_base64"]) if "body_base64" in message else message["body"].encode()
        properties = pika.BasicProperties(
            content_type=message.get("content_type"),
            headers={name: header(value) for name, value in message.get("headers", {}).items()} or None,
            message_id=message.get("message_id"),
            type=message.get("type"),
            delivery_mode=2,
        )
        messages.append((properties, body, None, None))
    return messages, len(messages), len(messages)


class Publisher:
    """One connection that has up to UNCONFIRMED messages on their way, and ends when the broker has taken all."""

    def __init__(self, arguments, messages):
        self.arguments, self.messages = arguments, messages
        self.sent = self.confirmed = 0
        self.began = self.took = 0.0
        self.error = None
        self.logged = set()
        self.log = open(arguments.log, "a", encoding="utf-8") if arguments.log else None
        self.connection = pika.SelectConnection(
            pika.URLParameters(arguments.url),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self.opened),
            on_open_error_callback=lambda _, error: self.fail(f"no connection: {error!r}"),
            on_close_callback=self.closed,
        )

    def fail(self, error):
        self.error = self.error or error
        self.connection.ioloop.stop()

    def closed(self, _, reason):
        if self.confirmed < len(self.messages):
            self.error = self.error or f"the connection ended: {reason!r}"
        self.connection.ioloop.stop()

    def opened(self, channel):
        self.channel = channel
        channel.add_on_close_callback(lambda _, reason: None if self.took else self.fail(f"the channel ended: {reason!r}"))
        channel.add_on_return_callback(lambda *_: self.fail(f"there is no queue {self.arguments.queue!r}"))
        channel.confirm_delivery(self.taken, callback=lambda _: self.begin())

    def begin(self):
        self.began = time.monotonic()
        self.more()

    def taken(self, frame):
        if isinstance(frame.method, pika.spec.Basic.Nack):
            self.fail("the broker refused a message")
            return
        self.confirmed = frame.method.delivery_tag if frame.method.multiple else self.confirmed + 1
        if self.confirmed >= len(self.messages):
            self.took = time.monotonic() - self.began
            self.connection.close()
        else:
            self.more()

    def more(self):
        if not self.messages:
            self.took = 1e-9
            self.connection.close()
            return
        rate = self.arguments.rate
        while self.sent < len(self.messages) and self.sent - self.confirmed < UNCONFIRMED:
            if rate:
                early = self.sent / rate - (time.monotonic() - self.began)
                if early > 0:
                    self.connection.ioloop.call_later(early, self.more)
                    return
            properties, body, device, indicator = self.messages[self.sent]
            if self.log and (device, indicator) not in self.logged:
                self.logged.add((device, indicator))
                self.log.write(f"{device} {indicator} {time.time_ns()}\n")
            self.channel.basic_publish(self.arguments.exchange, self.arguments.queue, body, properties, mandatory=True)
            self.sent += 1

    def run(self):
        self.connection.ioloop.start()
        if self.log:
            self.log.close()
        if self.error:
            sys.exit(f"publish_pika.py: {self.error}; {self.confirmed} of {len(self.messages)} were taken")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--queue", required=True, help="queue, or routing key with --exchange")
    parser.add_argument("--exchange", default="")
    parser.add_argument("--generate", type=int, help="so many alerts, repetitions included")
    parser.add_argument("--repeats", type=int, default=0, help="repetitions among a hundred")
    parser.add_argument("--devices", help="file of device ids, one a line")
    parser.add_argument("--indicators", default=INDICATORS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0, help="messages a second; 0: as fast as they are taken")
    parser.add_argument("--log", help="file for when each went out")
    arguments = parser.parse_args()
    messages, distinct, pairs = generated(arguments) if arguments.generate is not None else lines()
    publisher = Publisher(arguments, messages)
    publisher.run()
    print(json.dumps({"sent": len(messages), "distinct": distinct, "pairs": pairs, "seconds": round(publisher.took, 3)}))


main()
