import numpy as np

from nemo_cascade.planner.regression import Figures, Neighbours, Part, by_differences, fit


class Product:
    """Two nominal times, each with a factor of its own."""

    def __init__(self, nominal_NF):
        self.nominal_NF = nominal_NF

    def values(self, factors):
        return np.log(self.nominal_NF @ np.exp(factors))

    def slope(self, factors):
        return by_differences(self.values, factors)


def make(rng, count):
    nominal_NF = rng.uniform(0.1, 1.0, (count, 2))
    machines = ["slow" if i % 3 == 0 else "fast" for i in range(count)]
    values = np.log(nominal_NF @ np.array([1.5, 3.0])) + np.array([0.2 if m == "slow" else -0.1 for m in machines])
    return nominal_NF, machines, values + rng.normal(0, 0.01, count)


PARTS = [Part(0.2, {"machine": 0})]


def fitted_to(nominal_NF, machines, values):
    neighbours = Neighbours({"machine": machines}, np.zeros((len(machines), 1)))
    free = np.full(2, -np.inf)
    return fit(
        Product(nominal_NF), values, prior=np.log([1.0, 1.0]), deviation=np.array([1.0, 1.0]), least=free,
        neighbours=neighbours, parts=PARTS, noise=np.full(len(values), 0.02),
    )  # fmt: skip


def predicted(fitted, nominal_NF, machines, more=None):
    asked, formula = Neighbours({"machine": machines}, np.zeros((len(machines), 1))), Product(nominal_NF)
    noise = np.full(len(machines), 0.02)
    added, deviation = fitted.corrected(asked, formula.slope(fitted.factors), noise, more)
    return formula.values(fitted.factors) + added, deviation


def test_factors_and_what_a_machine_adds_are_both_found():
    nominal_NF, machines, values = make(np.random.default_rng(0), 60)
    fitted = fitted_to(nominal_NF[:40], machines[:40], values[:40])
    mean, _ = predicted(fitted, nominal_NF[40:], machines[40:])
    assert np.abs(mean - values[40:]).max() < 0.05
    assert np.isclose(*np.diff(fitted.factors), np.log(2.0), atol=0.05)


def test_an_outlier_moves_nothing():
    nominal_NF, machines, values = make(np.random.default_rng(1), 60)
    wrong = values.copy()
    wrong[5] += 3.0
    a, b = fitted_to(nominal_NF, machines, values), fitted_to(nominal_NF, machines, wrong)
    assert np.abs(a.factors - b.factors).max() < 0.05


def test_one_measured_step_narrows_the_range_of_its_machine():
    nominal_NF, machines, values = make(np.random.default_rng(2), 40)
    fitted = fitted_to(nominal_NF, machines, values)
    one, own = np.array([[0.5, 0.5]]), ["new"]
    before = predicted(fitted, one, own)
    measured = Product(one).values(fitted.factors) + 0.3
    neighbours = Neighbours({"machine": own}, np.zeros((1, 1)))
    more = Figures.of(Product(one), fitted.factors, neighbours, measured, np.array([0.02]))
    after = predicted(fitted, np.array([[0.9, 0.2]]), own, more)
    assert after[1] < 0.4 * before[1]
    assert abs(after[0] - Product(np.array([[0.9, 0.2]])).values(fitted.factors) - 0.3) < 0.06
