"""The nano cascade with the numbers that tests count on, whatever it is tuned to."""

PINNED = (
    "cascade=nano",
    "parallel=single",
    "rollout.num_engines=1",
    "model.architecture.num_hidden_layers=4",
    "model.architecture.intermediate_size=384",
    "model.architecture.initializer_range=0.05",
    "model.architecture.max_position_embeddings=4096",
    "rollout.max_model_len=256",
    *(f"stages.{stage}.seq_length=512" for stage in ("sft1", "sft2")),
    *(f"stages.{stage}.global_batch_size=16" for stage in ("sft1", "sft2")),
    *(f"stages.{stage}.max_steps=100" for stage in ("sft1", "sft2")),
    *(f"stages.{stage}.optimizer.lr=0.003" for stage in ("sft1", "sft2")),
    "stages.math_rl.seq_length=2048",
    "stages.math_rl.prompts_per_step=16",
    "stages.math_rl.num_generations=8",
    "~stages.math_rl.tasks.at_once",
    "stages.math_rl.sampling.max_tokens=96",
    *(f"~stages.{stage}" for stage in ("reward_model", "rlhf", "if_rl", "code_rl", "swe_rl")),
    *(
        f"~evaluation.suites.{domain}"
        for domain in ("chat", "code", "swe", "chat_think", "math_no_think", "to_think", "to_no_think")
    ),
    "stages.sft1.promise.improve=[math,instruction]",
    "stages.sft2.promise.improve=[]",
    "stages.math_rl.promise.hold=['*']",
    "evaluation.suites.math.samples_per_prompt=2",
    "evaluation.suites.math.sampling.max_tokens=96",
    "evaluation.suites.instruction.sampling.max_tokens=96",
)
