"""The same with celery over RabbitMQ: a task per device, a row per task, worker processes that each hold an MQTT session and a connection."""

import os
import subprocess
import sys
import threading
import time
import uuid

import celery
import paho.mqtt.client as mqtt
import psycopg
from celery.signals import worker_process_init
from kombu import Queue

import job

PROCESSES = 8
WARM_UP = 64
DEADLINE_SECONDS = 300

# Set by the program for its worker, which is this file once more.
queue_name = os.environ.setdefault("RIVAL_QUEUE", f"muster-bench-{uuid.uuid4().hex}")
app = celery.Celery("queue_tasks", broker=os.environ.get("RIVAL_AMQP", "amqp://guest:guest@127.0.0.1:5672//"))
app.conf.update(
    task_queues=[Queue(queue_name, durable=True)],
    task_default_queue=queue_name,
    task_ignore_result=True,
    # Acknowledged after the work, as Muster does: a worker that dies loses nothing.
    task_acks_late=True,
    broker_connection_retry_on_startup=True,
)


class Worker:
    """What one worker process holds."""

    connection = None
    client = None
    name = None
    waiting = {}


@worker_process_init.connect
def open_worker(**_):
    subscribed = threading.Event()
    Worker.name = f"celery-{uuid.uuid4().hex[:12]}"
    Worker.connection = psycopg.connect(os.environ["RIVAL_DATABASE"], autocommit=True)
    Worker.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=Worker.name, protocol=mqtt.MQTTv5)
    Worker.client.on_connect = lambda client, *_: client.subscribe(f"muster/v1/d/+/rsp/{Worker.name}", qos=1)
    Worker.client.on_subscribe = lambda *_: subscribed.set()
    Worker.client.on_message = answered
    Worker.client.connect("127.0.0.1", int(os.environ["RIVAL_MQTT_PORT"]))
    Worker.client.loop_start()
    if not subscribed.wait(job.ANSWER_TIMEOUT_SECONDS):
        raise TimeoutError("the broker does not answer")


def answered(_client, _userdata, message):
    slot = Worker.waiting.pop(message.properties.CorrelationData, None)
    if slot:
        slot[1] = job.status_of(message.properties)
        slot[0].set()


@app.task(name="ask")
def ask(device):
    task, topic, properties = job.request(device, Worker.name)
    slot = [threading.Event(), None]
    Worker.waiting[task.bytes] = slot
    Worker.connection.execute(job.INSERT, (task, device))
    Worker.client.publish(topic, "{}", qos=1, properties=properties)
    if not slot[0].wait(job.ANSWER_TIMEOUT_SECONDS):
        raise TimeoutError(f"{device} does not answer")
    Worker.connection.execute(job.UPDATE, (slot[1], task))


def completed(connection, wanted):
    deadline = time.monotonic() + DEADLINE_SECONDS
    while (done := connection.execute(job.COUNT).fetchone()[0]) < wanted and time.monotonic() < deadline:
        time.sleep(0.02)
    return done


def main():
    arguments = job.arguments()
    connection = psycopg.connect(arguments.database, autocommit=True)
    connection.execute(job.TABLE)
    os.environ.update(RIVAL_DATABASE=arguments.database, RIVAL_MQTT_PORT=str(arguments.mqtt_port))
    worker = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "celery", "-A", "queue_tasks", "worker", "--pool", "prefork", "--concurrency", str(PROCESSES),
         "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR"],
        cwd=os.path.dirname(os.path.abspath(__file__)), stdout=subprocess.DEVNULL,
    )
    try:
        # Processes and connections before the clock starts.
        for index in range(WARM_UP):
            ask.delay(arguments.device[index % len(arguments.device)])
        if completed(connection, WARM_UP) < WARM_UP:
            sys.exit("the worker does not work")
        began = time.monotonic()
        for index in range(arguments.tasks):
            ask.delay(arguments.device[index % len(arguments.device)])
        done = completed(connection, WARM_UP + arguments.tasks)
        job.report(arguments.tasks, began, done - WARM_UP)
    finally:
        worker.terminate()
        worker.wait(job.ANSWER_TIMEOUT_SECONDS)
        with app.connection_or_acquire() as amqp:
            Queue(queue_name, durable=True).bind(amqp.default_channel).delete()


if __name__ == "__main__":
    main()
