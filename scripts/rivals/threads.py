"""The script one writes first: paho, a pool of connections to PostgreSQL, 16 threads."""

import itertools
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import paho.mqtt.client as mqtt
from psycopg_pool import ConnectionPool

import job

THREADS = 16


class Caller:
    """One MQTT session for all threads; each waits for the answer to its own request."""

    def __init__(self, port):
        self.name = f"threads-{uuid.uuid4().hex[:12]}"
        self.waiting = {}
        self.subscribed = threading.Event()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=self.name, protocol=mqtt.MQTTv5)
        self.client.max_inflight_messages_set(job.IN_FLIGHT)
        self.client.on_connect = lambda client, *_: client.subscribe(f"muster/v1/d/+/rsp/{self.name}", qos=1)
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_message = self.answered
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        if not self.subscribed.wait(job.ANSWER_TIMEOUT_SECONDS):
            raise TimeoutError("the broker does not answer")

    def answered(self, _client, _userdata, message):
        slot = self.waiting.pop(message.properties.CorrelationData, None)
        if slot:
            slot[1] = job.status_of(message.properties)
            slot[0].set()

    def ask(self, pool, device):
        task, topic, properties = job.request(device, self.name)
        slot = [threading.Event(), None]
        self.waiting[task.bytes] = slot
        with pool.connection() as connection:
            connection.execute(job.INSERT, (task, device))
        self.client.publish(topic, "{}", qos=1, properties=properties)
        if not slot[0].wait(job.ANSWER_TIMEOUT_SECONDS):
            raise TimeoutError(f"{device} does not answer")
        with pool.connection() as connection:
            connection.execute(job.UPDATE, (slot[1], task))


def main():
    arguments = job.arguments()
    caller = Caller(arguments.mqtt_port)
    with ConnectionPool(arguments.database, min_size=THREADS, max_size=THREADS) as pool:
        pool.wait()
        with pool.connection() as connection:
            connection.execute(job.TABLE)
        devices = itertools.islice(itertools.cycle(arguments.device), arguments.tasks)
        began = time.monotonic()
        with ThreadPoolExecutor(THREADS) as threads:
            for _ in threads.map(lambda device: caller.ask(pool, device), devices):
                pass
        with pool.connection() as connection:
            done = connection.execute(job.COUNT).fetchone()[0]
        job.report(arguments.tasks, began, done)
    caller.client.disconnect()
    caller.client.loop_stop()


main()
