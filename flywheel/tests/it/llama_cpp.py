"""Lets llama.cpp's server continue prompts greedily.

usage: llama_cpp.py MODEL ADAPTER|- QUESTIONS ANSWERS

QUESTIONS is JSON: prompts (token ids), count (tokens to write), barred (token ids that are not written). ANSWERS becomes a
list of the tokens written for each prompt, and what of the text in "text" the server makes tokens of.
"""

import json
import sys
import urllib.request

import xllamacpp


def ask(address, path, body):
    request = urllib.request.Request(address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


model, adapter, questions, answers = sys.argv[1:]
with open(questions, encoding="utf-8") as file:
    asked = json.load(file)
parameters = xllamacpp.CommonParams()
parameters.model.path = model
parameters.hostnames = ["127.0.0.1"]
parameters.port = 0
parameters.n_ctx = 256
parameters.n_parallel = 1
parameters.cpuparams.n_threads = 1
parameters.warmup = False
# Keys and values in full, as we keep them.
parameters.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F32
parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
if adapter != "-":
    information = xllamacpp.CommonAdapterLoraInfo()
    information.path = adapter
    information.scale = 1.0
    parameters.lora_adapters = [information]
server = xllamacpp.Server(parameters)
written = []
for prompt in asked["prompts"]:
    body = {
        "prompt": prompt,
        "n_predict": asked["count"],
        "temperature": 0,
        "return_tokens": True,
        "cache_prompt": False,
        "ignore_eos": True,
        "logit_bias": [[token, False] for token in asked["barred"]],
    }
    written.append(ask(server.listening_address, "/completion", body)["tokens"])
tokens = ask(server.listening_address, "/tokenize", {"content": asked["text"], "add_special": False})["tokens"]
with open(answers, "w", encoding="utf-8") as file:
    json.dump({"written": written, "tokens": tokens}, file)
