"""What vLLM has sampled of requests that haven't ended."""

from typing import Any


def sampled_so_far(engine: Any) -> dict[str, Any]:
    """Return the completion of each request under way as far as it goes, by the request's name.

    Read as vLLM's own abort reads it (`OutputProcessor.abort_requests`, which hands it to queues of the asynchronous
    engine alone).

    Args:
        engine: vLLM's `LLMEngine`, between two steps.
    """
    from vllm.v1.engine import FinishReason

    found = {}
    for state in engine.output_processor.request_states.values():
        output = state.make_request_output([], None, FinishReason.ABORT, None)
        found[state.external_req_id] = output.outputs[0]
    return found
