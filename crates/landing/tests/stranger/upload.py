"""A stranger's client: Microsoft's azure-storage-blob, given nothing but a grant's URL.

Prints one line per upload: name, size and SHA-256 of what it sent.
"""

import hashlib
import random
import sys

from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobClient, BlobType, ContainerClient

grant = sys.argv[1]
source = random.Random(7)


def report(name, data):
    print(name, len(data), hashlib.sha256(data).hexdigest(), flush=True)


# One request.
small = source.randbytes(100_000)
with ContainerClient.from_container_url(grant) as container:
    container.upload_blob("small/with space ü.bin", small, metadata={"device": "edge-7"})
    report("small/with space ü.bin", small)

    # Staged in parallel and committed.
    large = source.randbytes(20 * 1024 * 1024 + 17)
    blocks = ContainerClient.from_container_url(grant, max_single_put_size=1024 * 1024, max_block_size=1024 * 1024)
    blocks.upload_blob("blocks.bin", large, max_concurrency=4, overwrite=True, validate_content=True)
    report("blocks.bin", large)

    # A stream of unknown length.
    def pieces():
        for at in range(0, len(large), 700_001):
            yield large[at : at + 700_001]

    blocks.upload_blob("stream.bin", pieces(), max_concurrency=2)
    report("stream.bin", large)

    # Appended to.
    first, second = source.randbytes(9 * 1024 * 1024), b"and a last line\n"
    container.upload_blob("append.log", first, blob_type=BlobType.APPENDBLOB)
    container.upload_blob("append.log", second, blob_type=BlobType.APPENDBLOB)
    report("append.log", first + second)

    # Overwriting has to be asked for.
    for overwrite, expected in [(False, "BlobAlreadyExists"), (True, None)]:
        try:
            container.upload_blob("twice.bin", b"1")
            container.upload_blob("twice.bin", b"22", overwrite=overwrite)
            got = None
        except HttpResponseError as error:
            got = error.error_code
        if overwrite is False:
            assert got == expected, got
    container.upload_blob("twice.bin", b"22", overwrite=True)
    report("twice.bin", b"22")

    # Nothing but writing.
    for attempt in [
        lambda: container.download_blob("blocks.bin").readall(),
        lambda: list(container.list_blobs()),
        lambda: container.delete_blob("blocks.bin"),
        lambda: container.get_blob_client("blocks.bin").get_blob_properties(),
        lambda: container.create_container(),
        lambda: container.delete_container(),
    ]:
        try:
            attempt()
        except HttpResponseError as error:
            assert error.status_code == 403, error
        else:
            raise AssertionError("a grant that reads")

# One blob's URL, as a device would build it from the container's.
base, query = grant.split("?")
with BlobClient.from_blob_url(f"{base}/dir/single.bin?{query}") as blob:
    blob.upload_blob(small)
    report("dir/single.bin", small)
