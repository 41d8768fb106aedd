"""What comes in and goes out, one file a subject: the models that validate, and the rows of the OpenAPI document."""
