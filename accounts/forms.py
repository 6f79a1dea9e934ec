"""django-allauth's forms as this site shows them, and the profile's."""

from typing import Any

from allauth.account import forms as allauth
from allauth.account.adapter import get_adapter
from allauth.core import context, ratelimit
from django import forms
from django.contrib.auth.hashers import make_password
from django.core.exceptions import ValidationError
from django.core.validators import MaxLengthValidator, RegexValidator
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse

from accounts.models import User
from booking_site.fields import TOO_LONG_TEXT

ONE_LINE = RegexValidator(r"^[^\x00-\x1f\x7f]*$", "Write the name on one line.")
NOT_AN_ADDRESS = "This is not an e-mail address; it should look like name@example.org."
LONGEST_PASSWORD = 1000  # hashing one of megabytes would be work for nothing
PASSWORD_ADVICE = "At least 8 characters. Three or four words that do not belong together are good."
TOO_LONG = f"A password has at most {LONGEST_PASSWORD} characters here."


class SiteForm:
    """Of every form here: our words, and the cursor in the first field with a mistake."""

    use_required_attribute = False

    labels = {
        "login": ("E-mail address", "Please type your e-mail address."),
        "email": ("E-mail address", "Please type your e-mail address."),
        "password": ("Password", "Please type your password."),
        "oldpassword": ("Current password", "Please type your current password."),
        "password1": ("New password", "Please choose a password."),
        "code": ("Code", "Please type the code from the e-mail."),
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields.pop("password2", None)  # a slip of the finger is mended by a code
        for name, field in self.fields.items():
            field.widget.attrs.pop("placeholder", None)
            if name in self.labels:
                field.label, field.error_messages["required"] = self.labels[name]
            if isinstance(field, forms.EmailField):
                field.error_messages["invalid"] = NOT_AN_ADDRESS
                # allauth cuts off what the column does not hold: another address.
                field.validators.append(MaxLengthValidator(254, NOT_AN_ADDRESS))
            if isinstance(field.widget, forms.PasswordInput):
                field.help_text = ""
                field.validators.append(MaxLengthValidator(LONGEST_PASSWORD, TOO_LONG))
        if "password1" in self.fields:
            self.fields["password1"].help_text = PASSWORD_ADVICE

    def full_clean(self) -> None:
        super().full_clean()
        for field in list(self.errors)[:1]:
            if field in self.fields:
                self.fields[field].widget.attrs["autofocus"] = True


class LoginForm(SiteForm, allauth.LoginForm):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["login"].widget.attrs["autocomplete"] = "username"


class SignupForm(SiteForm, allauth.SignupForm):
    labels = SiteForm.labels | {"password1": ("Password", "Please choose a password.")}
    field_order = ["name", "email", "password1"]

    name = forms.CharField(
        label="Name",
        max_length=150,
        required=False,
        validators=[ONE_LINE],
        error_messages={"max_length": TOO_LONG_TEXT},
        widget=forms.TextInput(attrs={"autocomplete": "name"}),
    )

    def save(self, request: HttpRequest) -> User:
        """As allauth's, all or nothing, and without its look in the session for an invitation: for
        who registers by the API it would begin one, and the headers tell that the account is new.
        """
        adapter = get_adapter()
        user = adapter.save_user(request, adapter.new_user(request), self, commit=False)  # hashes
        user.name = self.cleaned_data["name"]
        with transaction.atomic():
            user.save()
            user.set_address(confirmed=False)
        return user

    def try_save(self, request: HttpRequest) -> tuple[User | None, HttpResponse | None]:
        """As allauth's: whoever else's address it is, the page is the same.

        If it is the same person again, by a double click or in a new tab, they get a new code.
        """
        if user := self.make_account(request):
            return user, None
        return super().try_save(request)

    def make_account(self, request: HttpRequest) -> User | None:
        """The new account, or the one that the same person has just made; None if there is another
        with this address. After the same time, and of many at once only one makes an account.
        """
        if not self.account_already_exists:
            try:
                return self.save(request)
            except IntegrityError:
                if not User.objects.filter(email=self.cleaned_data["email"]).exists():
                    raise
                self.account_already_exists = True
        return self._find_own()

    def _find_own(self) -> User | None:
        """An account of this address and password that waits for its code. Hashes once, always."""
        email, password = self.cleaned_data["email"], self.cleaned_data["password1"]
        waiting = User.objects.filter(email=email, last_login=None, is_active=True)
        user = waiting.exclude(emailaddress__verified=True).first()
        if user is None:
            make_password(password)
            return None
        return user if user.check_password(password) else None


class AddEmailForm(SiteForm, allauth.AddEmailForm):
    labels = SiteForm.labels | {"email": ("New e-mail address", "Please type the new address.")}


class ChangePasswordForm(SiteForm, allauth.ChangePasswordForm):
    pass


class SetPasswordForm(SiteForm, allauth.SetPasswordForm):
    pass


class ResetPasswordForm(SiteForm, allauth.ResetPasswordForm):
    pass


class NewPasswordForm(SiteForm, allauth.ResetPasswordKeyForm):
    pass


class ReauthenticateForm(SiteForm, allauth.ReauthenticateForm):
    pass


class RequestLoginCodeForm(SiteForm, allauth.RequestLoginCodeForm):
    pass


class CodeForm(SiteForm):
    """A code from an e-mail.

    allauth counts wrong ones in the session, where parallel tries with one cookie overwrite each
    other's count; here they are counted where it cannot be cheated.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["code"].widget.attrs |= {"inputmode": "numeric", "maxlength": "20"}

    def clean_code(self) -> str:
        request = context.request
        one_code = f"{request.session.session_key}:{self.expected_code}"
        if not ratelimit.consume(request, action="confirm_code", key=one_code):
            raise ValidationError(
                "That was too many tries. Ask for a new code, or wait five minutes."
            )
        return super().clean_code()


class LoginCodeForm(CodeForm, allauth.ConfirmLoginCodeForm):
    pass


class EmailCodeForm(CodeForm, allauth.ConfirmEmailVerificationCodeForm):
    pass


class PasswordResetCodeForm(CodeForm, allauth.ConfirmPasswordResetCodeForm):
    pass


class ProfileForm(SiteForm, forms.ModelForm):
    class Meta:
        model = User
        fields = ["name"]
        widgets = {"name": forms.TextInput(attrs={"autocomplete": "name"})}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["name"].validators.append(ONE_LINE)
        self.fields["name"].help_text = "Filled in for you when you book."
