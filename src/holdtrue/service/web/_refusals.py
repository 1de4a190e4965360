"""Bodies that are read strictly, and what is said of those that are refused."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from holdtrue.wire import escape_text


class Body(BaseModel):
    """Strict: unknown fields and other types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Refusal(Body):
    """A request that was not carried out, and why: a sentence with the way out."""

    error: str


def add_refusals(app: FastAPI, *, way_out: str = "See /openapi.json.") -> None:
    """Answer bodies that do not fit, and paths and methods that there are not, with a `Refusal`.

    Args:
        app: The application.
        way_out: Sentence that ends what is said of a path.
    """

    @app.exception_handler(RequestValidationError)
    async def refuse_body(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0] if error.errors() else {}
        place = ".".join(str(part) for part in first.get("loc", ()))
        sentence = f"the request's {escape_text(place)[:100]} is refused: {escape_text(str(first.get('msg', '')))[:200]}."
        return JSONResponse({"error": sentence}, status_code=422)

    @app.exception_handler(HTTPException)
    async def refuse_path(request: Request, error: HTTPException) -> JSONResponse:
        sentence = f"{request.method[:10]} is not answered here: {error.detail}. {way_out}"
        return JSONResponse(
            {"error": escape_text(sentence)}, status_code=error.status_code, headers=error.headers
        )
