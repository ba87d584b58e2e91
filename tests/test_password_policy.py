"""What a new password must be, whoever sets it."""

import pytest

from authsite import password_policy
from authsite.errors import WeakPassword

COMMON = "This password is on a list of commonly used passwords. Choose a different one"
A_NAME = "Password must not be your email address or the name of this site"
UNUSABLE = "This holds a character that cannot be used"


@pytest.fixture
def database_url(sqlite_url):
    """One database is enough: the policy reads none."""
    return sqlite_url


@pytest.fixture
def app(make_app):
    return make_app(SITE_NAME="Acme Notes")


@pytest.fixture(autouse=True)
def _current(app_context):
    """The policy reads the settings."""


def refusal(password: str, **context: str) -> str:
    """Return why the password is refused."""
    with pytest.raises(WeakPassword) as caught:
        password_policy.require_strong(password, **context)
    return caught.value.message


@pytest.mark.parametrize(
    "password", ["kitezug", "\U0001f40c" * 3 + "\U0001f680" * 4, "qx", "é" * 7]
)
def test_seven_characters_are_too_few(password):
    """PW-01: counted in code points, not in bytes."""
    assert refusal(password) == "Password must be at least 8 characters"


@pytest.mark.parametrize("password", ["kitezugs", "\U0001f40c" * 4 + "\U0001f680" * 4])
def test_eight_characters_are_enough(password):
    """PW-01."""
    password_policy.require_strong(password)


def test_the_length_is_that_of_the_normalised_password():
    """PW-01, PW-07: seven letters with combining marks are seven characters."""
    assert "at least 8" in refusal("abcdef" + "e\u0301")


def test_the_minimum_is_a_setting(make_app):
    """PW-01."""
    with make_app(PASSWORD_MIN_LENGTH="12").app_context():
        assert refusal("elevenchars") == "Password must be at least 12 characters"
        password_policy.require_strong("twelve chars")


@pytest.mark.parametrize("length", [64, 127, 128])
def test_long_passwords_are_allowed(length):
    """PW-02."""
    password_policy.require_strong(
        "ab" * 63 + "cd" if length == 128 else "ab" * (length // 2) + "c"
    )


def test_more_than_128_characters_are_refused_rather_than_cut():
    """PW-02."""
    assert refusal("ab" * 64 + "c") == "Password must be 128 characters or fewer"


@pytest.mark.parametrize(
    "password",
    [
        "only lowercase words",
        "73912846501",
        "ONLYUPPERQX",
        "~!@#$%^&*()_+",
        "        x",
        "пароль из слов",
        "漢字漢字かなかなあ",
        "\u2028 line separator",
        "tab\tand\nnewline",
        "' OR 1=1 --",
        "zebra\U0001f993zebra",
    ],
)
def test_any_kinds_of_characters_may_be_used(password):
    """PW-03: no rule of composition; spaces and all of Unicode."""
    password_policy.require_strong(password)


@pytest.mark.parametrize("password", ["password", "PASSWORD", "PassWord", "iloveyou", "12345678"])
def test_common_passwords_are_refused_in_any_case(password):
    """PW-04."""
    assert refusal(password) == COMMON


def test_the_list_holds_thousands_that_are_long_enough():
    """PW-04."""
    usable = [each for each in password_policy.common_passwords() if len(each) >= 8]

    assert len(usable) >= 3000
    assert all(each == each.casefold() for each in usable)


def test_a_common_password_inside_a_longer_one_is_no_reason():
    """PW-04: the entire password is compared."""
    password_policy.require_strong("password of mine")


@pytest.mark.parametrize("password", ["aaaaaaaa", "        ", "\U0001f40c" * 20])
def test_one_character_again_and_again_is_refused(password):
    """PW-05."""
    assert refusal(password) == COMMON


@pytest.mark.parametrize(
    "password",
    [
        "lovelace@example.com",
        "Lovelace@Example.COM",
        "lovelace",
        "LoveLace",
        "lovelacelovelace",
        "Acme Notes",
        "acmenotes",
        "acmenotesACMENOTES",
        "authsite",
        "authsiteauthsite",
    ],
)
def test_names_of_the_account_and_of_the_site_are_refused(password):
    """PW-05: also several times over."""
    assert refusal(password, email="lovelace@example.com") == A_NAME


@pytest.mark.parametrize("password", ["lovelace likes tea", "my authsite words", "evalecalove"])
def test_a_name_inside_a_longer_password_is_no_reason(password):
    """PW-05: only the whole password is compared."""
    password_policy.require_strong(password, email="lovelace@example.com")


@pytest.mark.parametrize(
    "password", ["three\x00 random words", "\x00" * 9, "random words \ud800", "\udfff random words"]
)
def test_what_is_no_text_is_refused(password):
    """PW-08: at the command line too, where no form stands before."""
    assert refusal(password) == UNUSABLE


def test_nothing_is_no_password():
    assert refusal("") == "Enter a password"


def test_the_refusal_names_the_field_that_the_caller_has():
    with pytest.raises(WeakPassword) as caught:
        password_policy.require_strong("short", field="new_password")

    assert caught.value.field == "new_password"


def test_the_refusal_does_not_repeat_the_password():
    """LG-01."""
    assert "qwertyuiop" not in refusal("qwertyuiop")
