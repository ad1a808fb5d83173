"""Interventions: switch neurons off or up, patch, inject, and measure what that does, beside matched controls."""
