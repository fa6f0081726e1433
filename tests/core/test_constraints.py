"""Constraints stand on the field; a message names the id at which the section stands."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest

from meddap_monai.core.configuration import build
from meddap_monai.core.constraints import (
    Choice,
    Count,
    Multiple,
    Range,
    Share,
    check_choice,
    check_range,
    here,
    settings,
)
from meddap_monai.diffusion.adapting.config import AdaptConfig
from meddap_monai.diffusion.pretraining.config import PretrainConfig
from meddap_monai.errors import ConfigurationError
from meddap_monai.selection.clustering.config import ClusterConfig
from meddap_monai.selection.filtering.filter_config import FilterConfig
from meddap_monai.selection.mixing.config import MixConfig
from meddap_monai.study.config import StudyConfig


@dataclass(frozen=True)
@settings("oven#shelf")
class Shelf:
    height: Annotated[int, Range(1, 8)] = 2
    cakes: int = 1

    def __post_init__(self) -> None:
        if self.cakes > self.height:
            raise ConfigurationError(f"{here('cakes')}: got {self.cakes}, expected at most {self.height}")


@dataclass(frozen=True)
@settings("oven")
class Oven:
    heat: Annotated[str, Choice(("top", "bottom"))] = "top"
    timer: Annotated[int, Range(0, 60), Multiple(5)] | None = None
    levels: Annotated[tuple[Annotated[int, Range(1, 8)], ...], Count(1, 3)] = (1,)
    open: Share | tuple[Share, ...] = 0.0
    pair: tuple[Share, Annotated[int, Range(1, 2)]] = (0.0, 1)
    rates: Mapping[str, Share] = field(default_factory=dict)
    shelf: Shelf = field(default_factory=Shelf)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"heat": "botom"}, "#heat: unknown value 'botom'; did you mean 'bottom'?"),
    ({"timer": 65}, "#timer: got 65, expected a number from 0 to 60"),
    ({"timer": 7}, "#timer: got 7, expected a multiple of 5"),
    ({"levels": ()}, "#levels: got none, expected 1 to 3"),
    ({"levels": (1, 2, 3, 4)}, "#levels: got 4 values, expected 1 to 3"),
    ({"levels": (1, 9)}, "#levels#1: got 9, expected a number from 1 to 8"),
    ({"open": 1.5}, "#open: got 1.5, expected a number from 0.0 to 1.0"),
    ({"open": float("-1")}, "#open: got -1.0, expected a number from 0.0 to 1.0"),
    ({"open": (0.5, 2.0)}, "#open#1: got 2.0, expected a number from 0.0 to 1.0"),
    ({"pair": (0.5, 3)}, "#pair#1: got 3, expected a number from 1 to 2"),
    ({"rates": {"a": 2.0}}, "#rates#a: got 2.0, expected a number from 0.0 to 1.0"),
]


@pytest.mark.parametrize(("values", "message"), WRONG)
def test_a_value_outside_its_constraint_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as built:
        build(Oven, values, "kitchen#oven")
    assert str(built.value) == f"kitchen#oven{message}"
    with pytest.raises(ConfigurationError) as made:
        Oven(**values)
    assert str(made.value) == f"oven{message}"


def test_a_value_within_its_constraints_stays_as_it_is() -> None:
    oven = Oven("bottom", 60, (1, 8, 3), (0.0, 1.0), (1.0, 2), {"a": 0.5}, Shelf(8, 8))
    values = {name: value for name, value in vars(oven).items() if name != "shelf"}
    assert build(Oven, values | {"shelf": {"height": 8, "cakes": 8}}, "oven") == oven
    assert build(Oven, {"timer": None}, "oven").timer is None


def test_not_a_number_is_in_no_range() -> None:
    with pytest.raises(ConfigurationError, match="oven#open: got nan"):
        Oven(open=float("nan"))


def test_a_check_of_several_fields_comes_after_theirs_and_names_the_same_place() -> None:
    with pytest.raises(ConfigurationError, match="^kitchen#shelf#cakes: got 3, expected at most 2"):
        build(Oven, {"shelf": {"cakes": 3}}, "kitchen")
    with pytest.raises(ConfigurationError, match="^oven#shelf#height: got 0"):
        Shelf(height=0)
    with pytest.raises(ConfigurationError, match="^oven#shelf#cakes: got 3"):
        Oven(shelf=Shelf(cakes=3))


@pytest.mark.parametrize(
    ("cls", "mapping", "where", "place"),
    [
        (ClusterConfig, {"filter": {"folds": 1}}, "cluster", "cluster#filter#folds"),
        (ClusterConfig, {"filter": {"steps": 0}}, "cluster", "cluster#filter#steps"),
        (PretrainConfig, {"unet": {"batch": 0}}, "pretrain", "pretrain#unet#batch"),
        (PretrainConfig, {"autoencoder": {"crop": 3}}, "pretrain", "pretrain#autoencoder#crop"),
        (AdaptConfig, {"accumulate": 9}, "adapt", "adapt#accumulate"),
        (AdaptConfig, {"dreambooth": {"prompt": "a"}}, "adapt", "adapt#dreambooth#prompt"),
        (MixConfig, {"search": {"classifier": {"batch": 0}}}, "mix", "mix#search#classifier#batch"),
        (
            StudyConfig,
            {"index": {"source": "a"}, "unseen": {"source": "b", "frames": "some"}},
            "study",
            "study#unseen#frames",
        ),
    ],
)
def test_a_stage_names_the_true_id(cls: type, mapping: dict[str, Any], where: str, place: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{place}( is|: )"):
        build(cls, mapping, where)


def test_what_is_made_in_python_names_the_place_of_its_class() -> None:
    with pytest.raises(ConfigurationError, match="^select#filter#folds: got 1"):
        FilterConfig(folds=1)
    with pytest.raises(ConfigurationError, match="^select#filter#channels: got 2"):
        FilterConfig(channels=2)


def test_choices_and_ranges() -> None:
    with pytest.raises(ConfigurationError, match="generate#scheduler: unknown value 'dpmm'; did you mean 'dpm'"):
        check_choice("dpmm", ["dpm", "euler"], "generate#scheduler")
    with pytest.raises(ConfigurationError, match="strength: got 2, expected a number from 0 to 1"):
        check_range(2, 0, 1, "strength")
