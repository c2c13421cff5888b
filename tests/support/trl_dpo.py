"""Train DPO with TRL on pairs of texts, told in JSON; the last line of the output says in JSON what each step took."""

import json
import os
import sys
import time


def main(job):
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    torch.set_num_threads(job["threads"])
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    tokenizer.eos_token = job["end"]
    seconds, begun = [], [0.0]

    class Clock(TrainerCallback):
        def on_step_begin(self, *_, **__):
            begun[0] = time.perf_counter()

        def on_step_end(self, *_, **__):
            seconds.append(time.perf_counter() - begun[0])

    settings = DPOConfig(
        output_dir=job["folder"],
        max_steps=job["steps"],
        per_device_train_batch_size=job["micro"],
        gradient_accumulation_steps=len(job["pairs"]) // job["micro"],
        learning_rate=job["lr"],
        lr_scheduler_type="constant",
        adam_beta1=0.9,
        adam_beta2=job["adam_beta2"],
        weight_decay=0.0,
        max_grad_norm=1.0,
        beta=job["beta"],
        loss_type="sigmoid",
        precompute_ref_log_probs=True,
        max_length=None,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        model_init_kwargs={"dtype": "float32", "attn_implementation": "sdpa"},
    )
    rows = Dataset.from_list(job["pairs"])
    trainer = DPOTrainer(
        job["model"], args=settings, train_dataset=rows, processing_class=tokenizer, callbacks=[Clock()]
    )
    trainer.train()
    columns = ("prompt_ids", "chosen_ids", "rejected_ids")
    print(
        json.dumps(
            {
                "seconds": seconds,
                "losses": [line["loss"] for line in trainer.state.log_history if "loss" in line],
                "tokens": [[row[name] for name in columns] for row in trainer.train_dataset],
            }
        )
    )


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main(json.loads(sys.argv[1]))
