"""What the routes and forms of sessions cannot say of themselves, for the OpenAPI document."""

from ...errors import Forbidden, SessionNotFound
from ...web import forms, shapes
from ...web.openapi import Operation

# By endpoint; the last part of its name is the operation id.
OPERATIONS: dict[str, Operation] = {
    "api.sessions.logout": Operation(
        "Sign out",
        "Ends the session that the refresh token names, also if it has expired, else the one of the access"
        " token. A refresh token that is not one of ours counts as none. The body may be left out.",
        "Message",
        message="Logged out successfully",
        form=forms.LogoutForm,
        example={"refresh_token": shapes.TOKEN},
        errors=(Forbidden("You can only logout your own sessions"),),
        may_lack_body=True,
    ),
    "api.sessions.logout_all": Operation(
        "Sign out everywhere",
        "Ends all your sessions, this one included.",
        "Message",
        message="Successfully logged out from all devices (3 sessions terminated)",
    ),
    "api.sessions.list_my_sessions": Operation(
        "List your sessions",
        "Every device on which you are signed in, by a page or by this API, last used first.",
        "SessionList",
    ),
    "api.sessions.rename_session": Operation(
        "Name a device",
        "Gives one of your sessions a name of your own; null forgets it.",
        "Session",
        form=forms.DeviceNameForm,
        example={"device_name": "The laptop in the kitchen"},
        errors=(Forbidden("You can only rename your own sessions"), SessionNotFound()),
    ),
    "api.sessions.revoke_session": Operation(
        "Sign a device out",
        "Ends one of your sessions; its tokens stop working at once. Doing it again changes nothing.",
        "Message",
        message="Session revoked: Chrome on Windows",
        errors=(Forbidden("You can only revoke your own sessions"), SessionNotFound()),
    ),
    "api.sessions.revoke_other_sessions": Operation(
        "Sign all other devices out",
        "Ends all your sessions but this one.",
        "Message",
        message="Signed out of 2 other devices",
    ),
    "api.sessions.cleanup_expired_sessions": Operation(
        "Forget ended sessions",
        "Deletes what is kept of your sessions that have expired or ended.",
        "Message",
        message="Cleaned up 2 expired sessions",
    ),
}
