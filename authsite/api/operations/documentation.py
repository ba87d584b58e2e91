"""What the routes and forms of documentation cannot say of themselves, for the OpenAPI document."""

from ...web.openapi import Operation

# By endpoint; the last part of its name is the operation id.
OPERATIONS: dict[str, Operation] = {
    "api.documentation.openapi_document": Operation(
        "Read this document",
        "OpenAPI 3.1, for programs. The only answer that may be cached.",
        "Document",
        is_conditional=True,
    ),
    "api.documentation.docs": Operation(
        "Read this document as a page", "For people.", "Page", answer_type="text/html"
    ),
}
