"""`python -m k8s.reconciler reconcile|form`: the reconciler without the rest of the command `rangeboard`."""

import click

from k8s.reconciler.commands import form, reconcile

click.Group("reconciler", commands=[reconcile, form])()
