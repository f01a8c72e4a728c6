from pretune.wording import counted, listed, percent


def test_one_is_singular_and_thousands_have_separators():
    assert [counted(n, "step") for n in (0, 1, 1234)] == ["0 steps", "1 step", "1,234 steps"]
    assert counted(2, "pass", "passes") == "2 passes"
    assert [counted(x, "epoch") for x in (1.0, 3.0, 0.5)] == ["1 epoch", "3 epochs", "0.5 epochs"]


def test_a_small_fraction_is_not_zero():
    assert [percent(x) for x in (0.0, 1e-6, 0.0004, 0.001, 0.9374, 1.0)] == [
        "0.0%",
        "<0.1%",
        "<0.1%",
        "0.1%",
        "93.7%",
        "100.0%",
    ]


def test_a_long_list_is_cut():
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abc"), 2) == "a, b, ..."
