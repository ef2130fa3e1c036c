import pytest

from tests.infra.deploy.promql import label_names, metric_names


@pytest.mark.parametrize(
    ("expression", "names", "labels"),
    [
        ("up == 0", {"up"}, set()),
        ('sum by (a, b) (rate(x_total{c="d, e"}[5m])) / 1e9 > 0.5', {"x_total"}, {"a", "b", "c"}),
        ("max by (a) (x) == 1 unless on (a) y offset 10m", {"x", "y"}, {"a"}),
        ('histogram_quantile(0.9, sum by (le) (rate(h_bucket{a=~"$a"}[$__rate_interval])))', {"h_bucket"}, {"le", "a"}),
        ("last_over_time(x[15m]) + y and z or w > bool 2", {"x", "y", "z", "w"}, set()),
    ],
)
def test_names(expression, names, labels):
    assert metric_names(expression) == names
    assert label_names(expression) == labels


@pytest.mark.parametrize("expression", ["sum(x", "x)", "x{a='b'", "rate(x[5m)])"])
def test_brackets(expression):
    with pytest.raises(ValueError, match=r"closes nothing|stays open"):
        metric_names(expression)
