"""Methods, each a formula over measured columns, in families. To add one, write it and give it a line here."""

from collections.abc import Callable, Mapping

from learnable.scorers.ifd import IFD, TopShareIFD
from learnable.scorers.learnability import (
    END_OF_TURN_SHARE,
    Difference,
    Learnability,
    LengthMatched,
    SoftLearnability,
    TextLearnability,
    end_of_turn_share,
)
from learnable.scorers.less import LESS
from learnable.scorers.loss import Length, Loss, Perplexity, PerplexityDrop, PerplexityMiddle
from learnable.scorers.short_answers import BaselineCorrected, LowerBound, WithoutFirstToken
from learnable.scorers.target import DSIR, PDS, Relevance, TargetDrop, TargetLearnability
from learnable.scorers.v_information import PVI, Hardness, HardNotWrong, PVIZero
from learnable.types import Scorer

SCORERS: Mapping[str, Callable[..., Scorer]] = {
    "learnability": Learnability,
    "soft_learnability": SoftLearnability,
    "text_learnability": TextLearnability,
    "difference": Difference,
    "length_matched": LengthMatched,
    "baseline_corrected": BaselineCorrected,
    "lower_bound": LowerBound,
    "without_first_token": WithoutFirstToken,
    "perplexity_drop": PerplexityDrop,
    "loss": Loss,
    "perplexity": Perplexity,
    "perplexity_middle": PerplexityMiddle,
    "ifd": IFD,
    "top_share_ifd": TopShareIFD,
    "length": Length,
    "target_learnability": TargetLearnability,
    "target_drop": TargetDrop,
    "relevance": Relevance,
    "dsir": DSIR,
    "less": LESS,
    "pds": PDS,
    "pvi": PVI,
    "pvi_zero": PVIZero,
    "hardness": Hardness,
    "hard_not_wrong": HardNotWrong,
}

RANKS: Mapping[str, str] = {"length_matched": "learnability"}
"""Scores that are ranks of another: their values are spread alike in any pool, and their mean says nothing."""

__all__ = ["END_OF_TURN_SHARE", "IFD", "LESS", "RANKS", "SCORERS", "Learnability", "end_of_turn_share"]
