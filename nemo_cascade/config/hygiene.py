"""What counts as the same prompt in two sets, and how much of it is allowed."""

from pydantic import PositiveInt

from nemo_cascade.config.base import Fraction, block


@block
class HygieneConfig:
    """Prompts of SFT and of RL must be disjoint, and both from the evaluation's; checked before the first step.

    A prompt is found where a training prompt is exactly the same (but for case, white space and the script of digits),
    is nearly the same (MinHash), or has `ngram` words in a row in common with it (arXiv 2512.13607, section 3.2).

    The last two look at what is a prompt's own, that is, at no run of three words that more than eight prompts of its
    set share (a template), and only at prompts of at least 25 words of their own. From these lengths on three
    changed words are seen through: 36 words, three of them changed, still have nine in a row; 25 words still share 0.4
    of their different runs of three with the original (14 of 32), which MinHash finds in 97.5 of 100 cases (42 bands of
    three). Shorter prompts are found where they are exactly the same: of "Compute 123+456.", or of the nano cascade's
    prompts (3 to 22 words, drawn from templates), a neighbour is another task, not a copy.
    """

    enabled: bool = True
    """Check; the report is hygiene.json in the run folder."""
    ngram: PositiveInt = 9
    """Words in a row that make a longer prompt found."""
    max_rl_in_sft: Fraction = 0.0
    """Largest share of an RL stage's prompts that may be found in an SFT stage; more refuses the run."""
    max_evaluation_in_training: Fraction = 0.0
    """Largest share of a suite's prompts that may be found in what a stage trains on; more refuses the run."""
