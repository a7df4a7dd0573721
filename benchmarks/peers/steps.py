"""The steps of place-order as a peer runs them: each one statement in the service's business tables.

Every statement may be repeated: peers run a step at least once. This module is imported in the environments of the
peers, where kafkasaga and its dependencies are not installed.
"""

from __future__ import annotations

from typing import Any

NOTE_CREATED = """
WITH noted AS (
    INSERT INTO order_history (order_id, status, at) VALUES (%(order)s, 'CREATED', now()) ON CONFLICT DO NOTHING
)
UPDATE customer_order SET status = 'CREATED', total = %(total)s WHERE id = %(order)s AND status = 'VALIDATING'
"""
RESERVE = """
WITH held AS (
    INSERT INTO reservation (order_id, sku, quantity, status) VALUES (%(order)s, %(sku)s, %(quantity)s, 'RESERVED')
    ON CONFLICT DO NOTHING RETURNING sku, quantity
)
UPDATE stock SET available = available - held.quantity, reserved = reserved + held.quantity
FROM held WHERE stock.sku = held.sku
"""
CHARGE = """
INSERT INTO charge (order_id, customer_id, amount)
SELECT %(order)s, customer_id, %(total)s FROM card WHERE customer_id = %(customer)s AND "limit" >= %(total)s
ON CONFLICT (order_id) DO UPDATE SET amount = excluded.amount
"""
"""Touches one row, or none: the card is declined."""
RELEASE = """
WITH released AS (
    UPDATE reservation SET status = 'RELEASED' WHERE order_id = %(order)s AND status = 'RESERVED'
    RETURNING sku, quantity
)
UPDATE stock SET available = available + released.quantity, reserved = reserved - released.quantity
FROM released WHERE stock.sku = released.sku
"""
SELL = """
WITH taken AS (
    UPDATE reservation SET status = 'SOLD' WHERE order_id = %(order)s AND status = 'RESERVED' RETURNING sku, quantity
)
UPDATE stock SET sold = sold + taken.quantity, reserved = reserved - taken.quantity
FROM taken WHERE stock.sku = taken.sku
"""
COMPLETE = """
WITH noted AS (
    INSERT INTO order_history (order_id, status, at) VALUES (%(order)s, 'COMPLETED', now()) ON CONFLICT DO NOTHING
)
UPDATE customer_order SET status = 'COMPLETED' WHERE id = %(order)s
"""
CANCEL = """
WITH noted AS (
    INSERT INTO order_history (order_id, status, at) VALUES (%(order)s, 'CANCELLED', now()) ON CONFLICT DO NOTHING
)
UPDATE customer_order SET status = 'CANCELLED', reason = 'card declined' WHERE id = %(order)s
"""


def parameters(order: dict[str, Any]) -> dict[str, Any]:
    """What the statements need of ``order.created``."""
    line = order["lines"][0]
    return {
        "order": order["order_id"],
        "sku": line["sku"],
        "quantity": line["quantity"],
        "customer": order["customer_id"],
        "total": order["total"],
    }
