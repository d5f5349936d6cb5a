"""The tool: what `xtune chat --tools tools.py` lets the model call."""

ORDERS = {4711: "on its way", 1234: "delivered", 8080: "waiting for payment"}


def order_status(number: int) -> dict:
    """Look up where an order is.

    Args:
        number: The order's number.
    """
    return {"status": ORDERS.get(number, "unknown")}
