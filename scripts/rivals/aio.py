"""The same with asyncio: aiomqtt, an asynchronous pool of 16 connections, a few hundred tasks at once."""

import asyncio
import itertools
import logging
import time
import uuid

import aiomqtt
from psycopg_pool import AsyncConnectionPool

import job

CONNECTIONS = 16
AT_ONCE = 200
# It warns of each publish beyond ten that are under way; a few hundred are meant.
logging.getLogger("mqtt").setLevel(logging.ERROR)


async def main():
    arguments = job.arguments()
    name = f"aio-{uuid.uuid4().hex[:12]}"
    waiting = {}
    room = asyncio.Semaphore(AT_ONCE)
    client = aiomqtt.Client(
        "127.0.0.1", arguments.mqtt_port, identifier=name, protocol=aiomqtt.ProtocolVersion.V5,
        max_inflight_messages=job.IN_FLIGHT, max_concurrent_outgoing_calls=job.IN_FLIGHT,
    )
    pool = AsyncConnectionPool(arguments.database, min_size=CONNECTIONS, max_size=CONNECTIONS, open=False)

    async def listen():
        async for message in client.messages:
            answer = waiting.pop(message.properties.CorrelationData, None)
            if answer and not answer.done():
                answer.set_result(job.status_of(message.properties))

    async def ask(device):
        async with room:
            task, topic, properties = job.request(device, name)
            answer = waiting[task.bytes] = asyncio.get_running_loop().create_future()
            async with pool.connection() as connection:
                await connection.execute(job.INSERT, (task, device))
            await client.publish(topic, "{}", qos=1, properties=properties)
            status = await asyncio.wait_for(answer, job.ANSWER_TIMEOUT_SECONDS)
            async with pool.connection() as connection:
                await connection.execute(job.UPDATE, (status, task))

    async with client, pool:
        await pool.wait()
        await client.subscribe(f"muster/v1/d/+/rsp/{name}", qos=1)
        listener = asyncio.create_task(listen())
        async with pool.connection() as connection:
            await connection.execute(job.TABLE)
        devices = itertools.islice(itertools.cycle(arguments.device), arguments.tasks)
        began = time.monotonic()
        await asyncio.gather(*(ask(device) for device in devices))
        async with pool.connection() as connection:
            done = (await (await connection.execute(job.COUNT)).fetchone())[0]
        job.report(arguments.tasks, began, done)
        listener.cancel()


asyncio.run(main())
