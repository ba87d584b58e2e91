"""Extensions, created here and bound in create_app."""

from flask_limiter import Limiter
from flask_mail import Mail
from flask_migrate import Migrate
from flask_wtf.csrf import CSRFProtect

csrf = CSRFProtect()
limiter = Limiter(key_func=lambda: "", key_prefix="authsite", strategy="moving-window")
mail = Mail()
migrate = Migrate()
