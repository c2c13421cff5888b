"""Rotary frequencies as Megatron-Core doesn't make them itself. D: the part of a head that turns."""

import math

import torch

from nemo_cascade.models.architecture import Llama3Scaling, Rotary, YarnScaling


def scaled_frequencies(inverse_frequencies: torch.Tensor, positions: Rotary) -> torch.Tensor:
    """Stretch rotary frequencies.

    Args:
        inverse_frequencies: [D/2] unscaled theta ** (-2i/D), fp32.
        positions: theta, and by what they are stretched.

    Returns:
        [D/2]
    """
    match positions.scaling:
        case None:
            return inverse_frequencies
        case Llama3Scaling() as scaling:
            return _llama3(inverse_frequencies, scaling)
        case YarnScaling() as scaling:
            return _yarn(inverse_frequencies, positions.theta, scaling)
        case scaling:
            return inverse_frequencies / scaling.factor


def softmax_scale(head_dim: int, positions: Rotary | None) -> float | None:
    """Return the scale of attention's scores; None for 1 / sqrt(head_dim).

    YaRN multiplies turned queries and keys by a factor; of heads that turn as a whole, that is the score by its square.
    """
    if positions is None or not isinstance(positions.scaling, YarnScaling):
        return None
    return positions.scaling.temper**2 / math.sqrt(head_dim)


def _llama3(inverse_frequencies: torch.Tensor, scaling: Llama3Scaling) -> torch.Tensor:
    """Stretch slow frequencies, fading in between two wavelengths (transformers `_compute_llama3_parameters`)."""
    low = scaling.original_max_position_embeddings / scaling.low_freq_factor
    high = scaling.original_max_position_embeddings / scaling.high_freq_factor
    wavelength = 2 * math.pi / inverse_frequencies
    stretched = inverse_frequencies / scaling.factor
    smooth = (scaling.original_max_position_embeddings / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    faded = (1 - smooth) * stretched + smooth * inverse_frequencies
    result = torch.where(wavelength > low, stretched, inverse_frequencies)
    return torch.where((wavelength <= low) & (wavelength >= high), faded, result)


def _yarn(inverse_frequencies: torch.Tensor, theta: float, scaling: YarnScaling) -> torch.Tensor:
    """Stretch by a ramp over the dimensions (arXiv 2309.00071, equations 17-23; `_compute_yarn_parameters`)."""
    width = 2 * inverse_frequencies.numel()

    def dimension(turns: float) -> float:
        """Return where a frequency makes so many turns in the length of pre-training."""
        length = scaling.original_max_position_embeddings
        return float(width * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta)))

    begin, end = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        begin, end = math.floor(begin), math.ceil(end)
    begin, end = max(begin, 0), min(end, width - 1)
    places = torch.arange(width // 2, dtype=torch.float32, device=inverse_frequencies.device)
    ramp = ((places - begin) / ((end - begin) or 0.001)).clamp(0, 1)
    return inverse_frequencies / scaling.factor * ramp + inverse_frequencies * (1 - ramp)
