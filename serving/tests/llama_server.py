"""Runs llama.cpp's server until its input ends.

usage: llama_server.py MODEL

What it says where it listens stands behind "listening at " in a line of its own.
"""

import sys

import xllamacpp

parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.hostnames = ["127.0.0.1"]
parameters.port = 0
parameters.n_ctx = 8192
parameters.n_parallel = 1
parameters.cpuparams.n_threads = 1
parameters.warmup = False
parameters.endpoint_metrics = True
server = xllamacpp.Server(parameters)
print(f"\nlistening at {server.listening_address}", flush=True)
sys.stdin.read()
