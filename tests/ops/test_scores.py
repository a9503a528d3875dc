"""Scores drawn from known populations."""

import numpy as np
import pytest

from vitreous.ops.scores import calibrate_scores, find_noise_limit, find_power_limits, split_scores


def draw(n: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n_particles = round(n * share)
    return rng.normal(0.15, 0.04, n - n_particles), rng.normal(0.4, 0.05, n_particles)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("n", [200, 3000])
def test_a_mixture_is_parted(n: int, share: float) -> None:
    for seed in range(5):
        noise, particles = draw(n, share, seed)
        split = split_scores(np.concatenate([particles, noise]))
        assert (noise >= split.threshold).sum() + (particles < split.threshold).sum() < 0.03 * n
        # Ashman's D of the populations: sqrt(2) 0.25 / sqrt(0.04^2 + 0.05^2) = 5.5.
        assert split.separation == pytest.approx(5.5, abs=1.2)


@pytest.mark.parametrize("n", [50, 300, 2000, 50_000])
def test_one_population_is_not_parted(n: int) -> None:
    for seed in range(10):
        values = np.random.default_rng(seed).normal(0.5, 0.1, n)
        split = split_scores(values)
        assert split.separation == 0
        assert (values >= split.threshold).mean() > 0.85


def test_scale_and_offset_do_not_matter() -> None:
    values = np.concatenate(draw(1000, 0.5, 0))
    one, other = split_scores(values), split_scores(1e4 * values - 7e3)
    assert other.threshold == pytest.approx(1e4 * one.threshold - 7e3, rel=1e-6)
    assert other.separation == pytest.approx(one.separation, rel=1e-6)


def test_values_piled_up_at_one_end() -> None:
    split = split_scores(np.array([0.0] * 30 + [0.9, 1.0, 1.1, 1.2]))
    assert np.isfinite(split.threshold)


def test_too_few_values() -> None:
    with pytest.raises(ValueError, match="fewer than four"):
        split_scores(np.array([0.1, 0.1, 0.2, 0.3]))


def make_trend(n_micrographs: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    defocus = rng.uniform(8e3, 3e4, n_micrographs)
    group = rng.permutation(np.repeat(np.arange(n_micrographs), 60))
    return rng.normal(0.4, 0.02, len(group)) + 1e-5 * defocus[group], group, defocus


def test_calibration_takes_out_a_planted_trend() -> None:
    values, group, defocus = make_trend()
    noise = np.random.default_rng(1).uniform(size=len(values)) < 0.3
    values[noise] -= 1.0
    calibrated = calibrate_scores(values, group, ~noise, defocus)
    medians = np.array([np.median(calibrated[(group == i) & ~noise]) for i in range(len(defocus))])
    assert abs(np.polyfit(defocus, medians, 1)[0]) < 0.05 * 1e-5
    assert abs(np.median(medians) - (0.4 + 1e-5 * np.median(defocus))) < 0.01
    # All scores of one micrograph move alike.
    np.testing.assert_allclose(np.ptp((values - calibrated)[group == 3]), 0, atol=1e-12)


def test_noise_is_the_same_at_any_defocus_and_particles_are_calibrated() -> None:
    values, group, defocus = make_trend()
    rng = np.random.default_rng(1)
    noise = rng.uniform(size=len(values)) < 0.3
    values[noise] = rng.normal(0.2, 0.02, int(noise.sum()))
    anchor = 0.3
    calibrated = calibrate_scores(values, group, ~noise, defocus, anchor)
    np.testing.assert_array_equal(calibrated >= anchor, values >= anchor)
    medians = np.array([np.median(calibrated[(group == i) & ~noise]) for i in range(len(defocus))])
    assert abs(np.polyfit(defocus, medians, 1)[0]) < 0.05 * 1e-5
    # The order within a micrograph stays.
    np.testing.assert_array_equal(np.argsort(calibrated[group == 3]), np.argsort(values[group == 3]))


def test_a_bent_trend_is_taken_out() -> None:
    _, group, defocus = make_trend(16)
    rng = np.random.default_rng(2)
    values = rng.normal(0.0, 0.03, len(group)) + 0.75 - 1e-9 * (defocus[group] - 3e4) ** 2
    calibrated = calibrate_scores(values, group, np.ones(len(values), bool), defocus, 0.1)
    medians = np.array([np.median(calibrated[group == i]) for i in range(len(defocus))])
    assert np.ptp(medians) < 0.05 < 0.3 < np.ptp([np.median(values[group == i]) for i in range(len(defocus))])


def test_a_micrograph_far_off_is_not_stretched_by_what_bends_elsewhere() -> None:
    _, group, defocus = make_trend(16)
    rng = np.random.default_rng(4)
    values = rng.normal(0.0, 0.01, len(group)) + 0.75 - 1e-9 * (defocus[group] - 3e4) ** 2
    far = int(defocus.argmax())
    defocus[far] = 9e4
    calibrated = calibrate_scores(values, group, np.ones(len(values), bool), defocus, 0.1)
    medians = [np.median(calibrated[group == i]) for i in range(len(defocus))]
    assert medians[far] == pytest.approx(np.median(medians), abs=0.05)


def test_a_valley_of_few_values_is_known_to_be_broad() -> None:
    rng = np.random.default_rng(0)
    few, many = (
        split_scores(
            np.concatenate([rng.normal(0.1, 0.02, 4 * n), rng.normal(0.4, 0.05, n), rng.uniform(0.15, 0.3, n // 10)])
        )
        for n in (60, 6000)
    )
    assert few.least < few.threshold - 0.02
    assert few.threshold - few.least > 1.5 * (many.threshold - many.least)


def test_one_strange_micrograph_does_not_matter() -> None:
    values, group, defocus = make_trend()
    values[group == int(defocus.argmax())] -= 0.5
    calibrated = calibrate_scores(values, group, np.ones(len(values), bool), defocus)
    others = [i for i in range(len(defocus)) if i != int(defocus.argmax())]
    medians = np.array([np.median(calibrated[group == i]) for i in others])
    assert abs(np.polyfit(defocus[others], medians, 1)[0]) < 0.15 * 1e-5


def test_unknown_defocus_and_micrographs_without_particles() -> None:
    values, group, defocus = make_trend()
    defocus[2] = np.nan
    reference = group != 5
    calibrated = calibrate_scores(values, group, reference, defocus)
    np.testing.assert_array_equal(calibrated[group == 2], values[group == 2])
    assert np.isfinite(calibrated).all()
    assert abs(np.median(calibrated[group == 5]) - np.median(calibrated[group == 4])) < 0.02


@pytest.mark.parametrize("change", ["few", "same", "unknown", "no reference"])
def test_no_trend_can_be_known(change: str) -> None:
    values, group, defocus = make_trend(5 if change == "few" else 12)
    if change == "same":
        defocus[:] = 1e4
    if change == "unknown":
        defocus[:] = np.nan
    reference = np.full(len(values), change != "no reference")
    np.testing.assert_array_equal(calibrate_scores(values, group, reference, defocus), values)


@pytest.mark.parametrize("n", [600, 6000])
def test_overlapping_populations_are_parted_where_they_are_equally_likely(n: int) -> None:
    """Noise maxima and faint particles: one mode only, deviations 0.03 about 0.08 (two thirds) and 0.16."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        noise, particles = rng.normal(0.08, 0.03, 2 * n // 3), rng.normal(0.16, 0.03, n // 3)
        split = split_scores(np.concatenate([noise, particles]))
        # Where 2 exp(-(t - 0.08)^2 / 2s^2) = exp(-(t - 0.16)^2 / 2s^2).
        assert split.threshold == pytest.approx(0.12 + 0.03**2 * np.log(2) / 0.08, abs=0.7 / np.sqrt(n))
        assert split.separation == pytest.approx(2.7, abs=0.9)


def test_power_limits_are_robust_deviations_from_the_median() -> None:
    power = np.random.default_rng(0).normal(0.1, 0.2, 20_001)
    every = np.ones(len(power), bool)
    limits = find_power_limits(power, every, 5, 0.25)
    assert limits.least == pytest.approx(0.1 - 5 * 0.2, abs=0.03)
    assert limits.most == pytest.approx(0.1 + 5 * 0.2, abs=0.03)
    assert find_power_limits(np.full(9, 0.1), every[:9], 5, 0.25) == pytest.approx((-0.15, 0.35))


def test_power_is_limited_where_junk_begins() -> None:
    rng = np.random.default_rng(0)
    particles, junk = rng.normal(0.1, 0.05, 4000), rng.normal(0.45, 0.12, 300)
    power = np.concatenate([particles, junk])
    limits = find_power_limits(power, np.ones(len(power), bool), 5, 0.25)
    assert (particles > limits.most).mean() < 0.005
    assert (junk > limits.most).mean() > 0.9
    assert limits.most < 0.1 + 0.25


def test_as_much_junk_as_particles_does_not_widen_what_particles_are_taken_to_have() -> None:
    rng = np.random.default_rng(0)
    particles, junk = rng.normal(0.1, 0.07, 150), rng.uniform(0.2, 0.6, 120)
    power = np.concatenate([particles, junk])
    best = np.arange(len(power)) < 135
    limits = find_power_limits(power, best, 5, 0.25)
    assert (particles > limits.most).mean() < 0.02
    assert limits.most < 0.1 + 6 * 0.07 < find_power_limits(power, np.ones(len(power), bool), 5, 0.25).most


def test_noise_limit_keeps_the_expected_share_of_noise() -> None:
    rng = np.random.default_rng(5)
    # In each micrograph peaks of noise, as many above t as 400 exp(-t / 0.03), and 50 particles.
    scores, noise_peaks, is_noise, group = [], [], [], []
    for micrograph in range(8):
        noise = rng.exponential(0.03, rng.poisson(400))
        values = np.concatenate([noise, rng.normal(0.22, 0.06, 50)])
        scores.append(values)
        noise_peaks.append(400 * np.exp(-values / 0.03))
        is_noise.append(np.arange(len(values)) < len(noise))
        group.append(np.full(len(values), micrograph))
    score, expected, false, number = (np.concatenate(part) for part in (scores, noise_peaks, is_noise, group))
    limit = find_noise_limit(score, expected, number, 0.1)
    assert limit is not None
    assert false[score >= limit].mean() == pytest.approx(0.1, abs=0.03)
    # Where 400 exp(-t / 0.03) is a ninth of the 50 particles.
    assert limit == pytest.approx(0.128, abs=0.005)
    expected[number == 3] = np.nan
    known = number != 3
    assert find_noise_limit(score, expected, number, 0.1) == find_noise_limit(
        score[known], expected[known], number[known], 0.1
    )


def test_no_noise_limit_where_nothing_is_known_of_noise() -> None:
    score, group = np.linspace(0.1, 0.5, 20), np.zeros(20, int)
    assert find_noise_limit(score, np.full(20, np.nan), group, 0.1) is None
    assert find_noise_limit(score, np.linspace(300.0, 30.0, 20), group, 0.1) is None
