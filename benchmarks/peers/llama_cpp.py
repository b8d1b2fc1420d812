"""Lets llama.cpp's server continue the prompts of `benchmarks/run decode`.

llama_cpp.py QUESTIONS ANSWERS

QUESTIONS is JSON: model (a GGUF file), threads, slots, context (tokens of a slot) and rounds. The requests of a round are sent at
the same time, each to a slot of its own: prompts (token ids), count (tokens to write), cache (whether a slot reads only what differs
from the prompt that it read before). ANSWERS becomes JSON: rounds, with how long the server says that it read and wrote for
each request, and how many tokens; peak_mib, the most memory that this process had.
"""

import concurrent.futures
import json
import sys
import urllib.request

import xllamacpp


def complete(address, slot, prompt, asked):
    body = {
        "prompt": prompt,
        "n_predict": asked["count"],
        "temperature": 0,
        "cache_prompt": asked["cache"],
        "id_slot": slot,
        "ignore_eos": True,
    }
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address + "/completion", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=600) as answer:
        timings = json.load(answer)["timings"]
    return {
        "read_ms": timings["prompt_ms"],
        "written_ms": timings["predicted_ms"],
        "written_tokens": timings["predicted_n"],
    }


def peak_mib():
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    raise ValueError("the process table tells no peak")


with open(sys.argv[1], encoding="utf-8") as file:
    questions = json.load(file)
slots = questions["slots"]
parameters = xllamacpp.CommonParams()
parameters.model.path = questions["model"]
parameters.hostnames = ["127.0.0.1"]
parameters.port = 0
parameters.n_parallel = slots
parameters.n_ctx = questions["context"] * slots
# Each slot has its part of the context, and nothing is kept beside the slots.
parameters.kv_unified = False
parameters.cache_ram_mib = 0
parameters.cpuparams.n_threads = questions["threads"]
parameters.cpuparams_batch.n_threads = questions["threads"]
server = xllamacpp.Server(parameters)
rounds = []
with concurrent.futures.ThreadPoolExecutor(slots) as pool:
    for asked in questions["rounds"]:
        sent = [
            pool.submit(complete, server.listening_address, slot, prompt, asked)
            for slot, prompt in enumerate(asked["prompts"])
        ]
        rounds.append([request.result() for request in sent])
with open(sys.argv[2], "w", encoding="utf-8") as file:
    json.dump({"rounds": rounds, "peak_mib": peak_mib()}, file)
