"""A policy's losses on pairs of responses: DPO, IPO and RPO, with cross entropy of the chosen one beside them.

Of a pair, with l(y) the sum (or mean) of log pi / reference over the trained tokens of y, and r(y) its reward:

    h           l(chosen) - l(rejected),  a = beta h,  b = eta (r(chosen) - r(rejected))
    dpo         -log sigmoid(a)                                                  arXiv 2305.18290, equation 7
    margin      -log sigmoid(a - b)                                              arXiv 2402.10571
    ipo         (h - 1 / (2 beta))^2                                             arXiv 2310.12036, equation 17
    rpo_bwd_kl  KL(Bernoulli(sigmoid b) || Bernoulli(sigmoid a))                 arXiv 2406.11704, section 3.3.2
    rpo_fwd_kl  KL(Bernoulli(sigmoid a) || Bernoulli(sigmoid b))
    rpo_sq      (a - b)^2
    sft         + sft_weight * -log pi(chosen)

Shapes: T tokens of the micro-batch, D documents, P pairs: documents 2p and 2p + 1 are chosen and rejected.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_cascade.config.stages.preference import PreferenceLossConfig
from nemo_cascade.losses.correction import Documents
from nemo_cascade.losses.objective import LossSpec, Objective, Scored
from nemo_cascade.losses.output import LossOutput, sum_and_count


@dataclass(frozen=True, slots=True)
class Preference(Objective):
    """A policy's loss on pairs, against log-probabilities of a frozen reference that come with the batch.

    Attributes:
        config: its switches.
    """

    config: PreferenceLossConfig

    def spec(self) -> LossSpec:
        """Return what it reads: the reference's log-probabilities, and rewards where its form has any."""
        return LossSpec("pair", frozenset(self.config.reads), whole_documents=True)

    def loss(self, scored: Scored) -> LossOutput:
        """Return the loss of one micro-batch; documents come in pairs, the preferred one first."""
        mask_T = scored.loss_mask > 0  # most of a pair is its prompt, whose logits would be made for nothing
        logprob_T = torch.zeros_like(scored.loss_mask).masked_scatter(mask_T, scored.trained_logprobs())
        return preference_loss(logprob_T, scored.loss_mask, scored.documents, scored.extras, self.config)


def preference_loss(
    logprob_T: Tensor,
    loss_mask_T: Tensor,
    documents: Documents,
    extras: Mapping[str, Tensor],
    config: PreferenceLossConfig,
) -> LossOutput:
    """Compute the summed loss of one micro-batch; the caller divides by the global batch's pairs.

    Args:
        logprob_T: [T] log-probability of each label, with gradient.
        loss_mask_T: [T], 1 where a response's token is the label; documents without any (padding) are no pairs.
        documents: of the tokens; every rank that holds some of a pack gets the whole loss of its pairs.
        extras: `reference_logprobs` [T], of the frozen reference; where the form reads rewards `rewards` [T], each
            document's on all its trained tokens. What stands where nothing is trained is ignored.
        config: the switches.

    Returns:
        Loss sum. Metrics per pair: `preference_loss`, `accuracy` (h > 0; a tie is half right), `margin` (a),
        `reward_chosen` and `reward_rejected` (beta l), `logprob_chosen` and `logprob_rejected` (of whole responses);
        `reward_gap` (b) where there are rewards; `sft_loss` where it is on.
    """
    mask_T = loss_mask_T > 0

    def sums(value_T: Tensor) -> Tensor:
        # float64: thousands of tokens are added up, and small differences of the sums are what counts.
        masked_T = torch.where(mask_T, value_T, torch.zeros_like(value_T)).double()
        sums_D = torch.zeros(documents.count, dtype=torch.float64, device=value_T.device)
        return documents.reduce(sums_D.index_add(0, documents.of_token_T, masked_T))

    count_D = sums(torch.ones_like(loss_mask_T))
    divisor_D = count_D.clamp(min=1) if config.average else torch.ones_like(count_D)
    policy_D, ratio_D = sums(logprob_T), sums(logprob_T - extras["reference_logprobs"].to(logprob_T))
    chosen_P, rejected_P = _pairs(ratio_D / divisor_D)
    is_pair_P = torch.stack(_pairs(count_D)).amin(0) > 0
    h_P = chosen_P - rejected_P
    gap_P = None
    if config.reads_rewards:
        reward_P, other_P = _pairs(sums(extras["rewards"]) / count_D.clamp(min=1))
        gap_P = config.eta * (reward_P - other_P)
    loss_P = torch.where(is_pair_P, _pair_loss(h_P, gap_P, config), torch.zeros_like(h_P))
    logprob_chosen_P, logprob_rejected_P = _pairs(policy_D)
    measured = {
        "preference_loss": loss_P,
        "accuracy": (h_P > 0).double() + 0.5 * (h_P == 0).double(),
        "margin": config.beta * h_P,
        "reward_chosen": config.beta * chosen_P,
        "reward_rejected": config.beta * rejected_P,
        "logprob_chosen": logprob_chosen_P,
        "logprob_rejected": logprob_rejected_P,
    }
    if gap_P is not None:
        measured["reward_gap"] = gap_P
    if config.sft_weight > 0:
        nll_P = -_pairs(policy_D / divisor_D)[0]
        measured["sft_loss"] = nll_P
        loss_P = loss_P + config.sft_weight * torch.where(is_pair_P, nll_P, torch.zeros_like(nll_P))
    return LossOutput(loss_P.sum(), {name: sum_and_count(value, is_pair_P) for name, value in measured.items()})


def _pairs(value_D: Tensor) -> tuple[Tensor, Tensor]:
    """Return the chosen documents' values and the rejected ones', [P] each; padding behind the pairs is left out."""
    chosen_P, rejected_P = value_D[: value_D.numel() // 2 * 2].view(-1, 2).unbind(1)
    return chosen_P, rejected_P


def _pair_loss(h_P: Tensor, gap_P: Tensor | None, config: PreferenceLossConfig) -> Tensor:
    a_P = config.beta * h_P
    if config.form == "ipo":
        return (h_P - 1 / (2 * config.beta)) ** 2
    if config.form == "dpo":
        return -F.logsigmoid(a_P if gap_P is None else a_P - gap_P)
    assert gap_P is not None, "rpo reads rewards"
    if config.form == "rpo_sq":
        return (a_P - gap_P) ** 2
    return bernoulli_kl(gap_P, a_P) if config.form == "rpo_bwd_kl" else bernoulli_kl(a_P, gap_P)


def bernoulli_kl(measure: Tensor, other: Tensor) -> Tensor:
    """Return KL(Bernoulli(sigmoid(measure)) || Bernoulli(sigmoid(other))), elementwise."""
    yes = F.logsigmoid(measure).exp() * (F.logsigmoid(measure) - F.logsigmoid(other))
    return yes + F.logsigmoid(-measure).exp() * (F.logsigmoid(-measure) - F.logsigmoid(-other))
