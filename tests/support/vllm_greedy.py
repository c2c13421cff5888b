"""Load an HF folder in vLLM as anybody does, and keep its greedy answer: FOLDER PROMPT_IDS MAX_TOKENS FILE."""

import json
import sys
from pathlib import Path

if __name__ == "__main__":  # vLLM starts processes that import this file again
    from vllm import LLM, SamplingParams

    folder, prompt, most = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    model = LLM(folder, dtype="float32", enforce_eager=True, max_model_len=512, max_num_seqs=1)
    (answer,) = model.generate({"prompt_token_ids": prompt}, SamplingParams(temperature=0.0, max_tokens=most))
    Path(sys.argv[4]).write_text(json.dumps(list(answer.outputs[0].token_ids)))  # vLLM logs to the standard output
