"""What comes in and goes out: the models that validate, and the OpenAPI document that is made of them."""
