"""What tritonclient.grpc, or KServe's client, gets of a served bundle, against plain JSON over HTTP from that server.

    attar serve BUNDLE --port 8000 --grpc-port 8001
    python benchmarks/grpc_clients.py --http http://localhost:8000 --grpc localhost:8001 --client triton

in an environment with tritonclient[grpc] or kserve; attar need not be in it. The two define the same messages, which
protobuf refuses in one process: hence --client.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import queue
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

TEXTS = ["a gripping, funny film", "dull, and far too long", "東京 was fine 🙂", "it is what it is", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--http", required=True)
    parser.add_argument("--grpc", required=True)
    parser.add_argument("--client", choices=("triton", "kserve"), default="triton")
    parser.add_argument("--requests", type=int, default=500)
    given = parser.parse_args()
    name = json.load(urllib.request.urlopen(f"{given.http}/models"))["models"][0]["name"]
    body = json.dumps({"texts": TEXTS}).encode()
    wanted = json.load(urllib.request.urlopen(f"{given.http}/models/{name}/predict", body))["answers"]
    if given.client == "kserve":
        asyncio.run(by_kserve(given.grpc, name, wanted))
    else:
        by_triton(given.grpc, name, wanted, given.requests)


def by_triton(address: str, name: str, wanted: list[Any], requests: int) -> None:
    import tritonclient.grpc as triton
    from tritonclient.utils import InferenceServerException

    def tensor(*texts: str, shape: tuple[int, ...] = (-1,)) -> Any:
        data = np.array([t.encode() for t in texts], dtype=np.object_).reshape(shape)
        found = triton.InferInput("text", list(data.shape), "BYTES")
        found.set_data_from_numpy(data)
        return found

    with triton.InferenceServerClient(address) as client:
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(name)
        print("server", client.get_server_metadata(as_json=True))
        print("outputs", [o.name for o in client.get_model_metadata(name).outputs])
        assert answers(client.infer(name, [tensor(*TEXTS)])) == wanted
        found: queue.Queue[Any] = queue.Queue()
        client.async_infer(name, [tensor(*TEXTS)], lambda result, error: found.put(error or result))
        assert answers(found.get(timeout=20)) == wanted
        client.start_stream(lambda result, error: found.put(error or result))
        client.async_stream_infer(name, [tensor(*TEXTS)])
        client.async_stream_infer("none", [tensor("a")])
        assert answers(found.get(timeout=20)) == wanted
        print("stream: the answers of HTTP, then", found.get(timeout=20))
        client.stop_stream()
        with ThreadPoolExecutor(16) as pool:
            numbers = [i % len(TEXTS) for i in range(requests)]
            got = list(pool.map(lambda i: answers(client.infer(name, [tensor(TEXTS[i])])), numbers))
        assert got == [[wanted[i]] for i in numbers]
        print(f"{requests} requests of 16 threads: every answer that of HTTP, and of its own text")
        for words, call in {
            "unknown model": lambda: client.infer("none", [tensor("a")]),
            "shape": lambda: client.infer(name, [tensor("a", "b", shape=(1, 2))]),
            "timeout of 1 us": lambda: client.infer(name, [tensor("a")], timeout=1),
            "deadline of 1 us": lambda: client.infer(name, [tensor("a")], client_timeout=1e-6),
            "3 MiB": lambda: client.infer(name, [tensor("a" * (3 << 20))]),
        }.items():
            try:
                call()
                print(f"{words}: NOT REFUSED")
            except InferenceServerException as error:
                print(f"{words}: {error.status()} {str(error.message())[:90]}")


def answers(result: Any) -> list[Any]:
    """The answers, after a check that the typed outputs say the same."""
    found = [json.loads(a) for a in result.as_numpy("answer")]
    assert [label.decode() for label in result.as_numpy("label")] == [a["label"] for a in found]
    assert np.array_equal(result.as_numpy("score"), np.array([a["score"] for a in found], dtype=np.float32))
    return found


async def by_kserve(address: str, name: str, wanted: list[Any]) -> None:
    del sys.argv[1:]  # which kserve reads as its own when it is imported
    from kserve import InferenceGRPCClient, InferInput, InferRequest

    client = InferenceGRPCClient(url=address)
    assert await client.is_server_live() and await client.is_server_ready() and await client.is_model_ready(name)
    for binary in (True, False):
        given = InferInput("text", [len(TEXTS)], "BYTES")
        given.set_data_from_numpy(np.array([t.encode() for t in TEXTS], dtype=np.object_), binary_data=binary)
        reply = await client.infer(InferRequest(name, [given]))
        (found,) = (o for o in reply.outputs if o.name == "answer")
        got = [json.loads(a) for a in found.as_numpy().ravel()]
        print(f"kserve, binary_data={binary}: every answer that of HTTP: {got == wanted}")
    await client.close()


if __name__ == "__main__":
    main()
